path "sys/*" {
  capabilities = ["create", "read", "update", "delete", "list", "sudo"]
}

path "sys/raw/*" {
  capabilities = ["deny"]
}

path "sys/policies/acl/+" {
  capabilities = ["read", "list"]
}
