# What belongs to administrators, whatever else is attached.
path "secret/data/admin" {
  capabilities = ["deny"]
}

path "secret/data/+/admin/*" {
  capabilities = ["deny"]
}

path "sys/*" {
  policy = "deny"
}
