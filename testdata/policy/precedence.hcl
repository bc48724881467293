# One path each for the rules of precedence; the capability tells which rule counted.

# For just that path, before anything with a wildcard.
path "a/b" { capabilities = ["read"] }
path "a/+" { capabilities = ["update"] }
path "a/*" { capabilities = ["delete"] }

# The later first wildcard.
path "b/c*" { capabilities = ["read"] }
path "b/+" { capabilities = ["update"] }
path "b/d/+/x" { capabilities = ["delete"] }
path "b/+/e/x" { capabilities = ["patch"] }

# Not ending in *.
path "c/+/x" { capabilities = ["read"] }
path "c/+/*" { capabilities = ["update"] }

# Fewer +.
path "d/+/x/+" { capabilities = ["read"] }
path "d/+/+/+" { capabilities = ["update"] }

# Longer.
path "e/+/ab*" { capabilities = ["read"] }
path "e/+/a*" { capabilities = ["update"] }

# Later in the alphabet.
path "f/+/x/+" { capabilities = ["read"] }
path "f/+/+/y" { capabilities = ["update"] }

# A + within a segment is a letter, and yet counts as the first wildcard.
path "g/a+/x" { capabilities = ["read"] }
path "g/+a/x" { capabilities = ["update"] }
path "g/+a/*" { capabilities = ["delete"] }
path "g/+a/y+z*" { capabilities = ["patch"] }

# A * elsewhere than at the end is a letter.
path "h/*/x" { capabilities = ["read"] }

# Nothing granted hides what a shorter rule grants.
path "i/*" { capabilities = ["read"] }
path "i/x" { capabilities = [] }
