// The API's documentation, from its own OpenAPI document.
const element = document.getElementById("swagger");
window.SwaggerUIBundle({
  url: element.dataset.url,
  domNode: element,
  deepLinking: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
