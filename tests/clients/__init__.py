"""What needs Node.js: linters of the OpenAPI document and a TypeScript client made of it."""
