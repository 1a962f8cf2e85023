"""Every op in plain torch: the definition that faster back ends are tested against, and the fallback without them."""
