# Broad on purpose.
path "secret/*" {
  capabilities = ["create", "read", "update", "patch", "delete", "list"]
}

path "sys/mounts" {
  capabilities = ["read"]
}
