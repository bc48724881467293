# An application reads its own secrets, may write one of them, and obtains a database login.
path "secret/data/app/*" {
  capabilities = ["read"]
}

path "secret/data/app/config" {
  capabilities = ["create", "read", "update", "patch"]
}

path "secret/metadata/app/" {
  capabilities = ["list"]
}

path "database/creds/app" {
  capabilities = ["read"]
}
