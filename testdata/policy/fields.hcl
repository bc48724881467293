path "allowed" {
  capabilities       = ["create", "read", "update", "patch", "delete", "list"]
  allowed_parameters = {
    "name"  = []
    "kind"  = ["web-*", "*-job", "*cron*", "x"]
    "ttl"   = [60, 3600]
    "debug" = [false]
    "hosts" = [["a", "b"]]
  }
}

path "others-too" {
  capabilities       = ["update"]
  allowed_parameters = {
    "kind" = ["web"]
    "*"    = []
  }
}

path "denied" {
  capabilities      = ["create", "update"]
  denied_parameters = {
    "Root"     = []
    "policies" = ["root", "admin-*"]
    "ttl"      = [0]
  }
}

path "nothing" {
  capabilities      = ["update"]
  denied_parameters = { "*" = ["ignored"] }
}

path "required" {
  capabilities        = ["create", "read", "update", "delete", "list"]
  required_parameters = ["Name", "ttl"]
}
