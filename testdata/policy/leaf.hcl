# Grants on a leaf and denies below it, and the reverse.
path "a/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }
path "a/leaf" { capabilities = ["read", "list"] }
path "a/leaf/*" { capabilities = ["deny"] }
path "a/tree" { capabilities = ["deny"] }
path "a/tree/*" { capabilities = ["read", "list"] }
path "a/both" { capabilities = ["deny"] }
path "a/both/" { capabilities = ["list"] }
path "b/+" { capabilities = ["deny"] }
path "b/*" { capabilities = ["read", "list"] }
# All is denied but what is named: the rule that denies is about both forms, and less specific.
path "c/*" { capabilities = ["deny"] }
path "c/app" { capabilities = ["list"] }
path "c/web/" { capabilities = ["list"] }
path "c/db/*" { capabilities = ["read", "list"] }
