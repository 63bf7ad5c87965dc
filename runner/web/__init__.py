"""The page: what people see of the record in a browser, rendered on the server."""
