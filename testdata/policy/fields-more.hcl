# Attached together with fields.hcl: what either names for the same path.
path "allowed" {
  capabilities       = ["update"]
  allowed_parameters = { "kind" = [] "extra" = ["x"] }
  required_parameters = ["name"]
}

path "denied" {
  capabilities      = ["update"]
  denied_parameters = { "policies" = [] }
}

path "required" {
  capabilities = ["update"]
}
