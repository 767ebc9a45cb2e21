import { createReadStream } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { PlatformError } from "@roost/contract";
import type { FastifyInstance } from "fastify";

/** The files of Swagger UI that its page needs, from the npm package: nothing is loaded from elsewhere. */
const files: Readonly<Record<string, string>> = {
  "swagger-ui.css": "text/css; charset=utf-8",
  "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
  "favicon-32x32.png": "image/png",
};

const startScript = `window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  defaultModelsExpandDepth: 0,
});
`;

const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Roost API</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`;

/** Swagger UI writes style attributes; everything else may only come from here. */
const contentSecurityPolicy =
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** `/docs`: the reference, from `/openapi.json`, to read and to try. */
export function addDocsRoutes(app: FastifyInstance): void {
  const folder = dirname(createRequire(import.meta.url).resolve("swagger-ui-dist/package.json"));
  const config = { access: "open", operationId: "docs" } as const;
  app.get("/docs", { config }, async (_request, reply) =>
    reply.type("text/html; charset=utf-8").header("content-security-policy", contentSecurityPolicy).send(page),
  );
  app.get("/docs/", { config }, async (_request, reply) => reply.redirect("/docs", 308));
  app.get<{ Params: { file: string } }>("/docs/:file", { config }, async (request, reply) => {
    const { file } = request.params;
    if (file === "start.js") return reply.type("text/javascript; charset=utf-8").send(startScript);
    const type = Object.hasOwn(files, file) ? files[file] : undefined;
    if (type === undefined) throw new PlatformError("route_not_found", "there is no such file here");
    return reply
      .type(type)
      .header("cache-control", "public, max-age=3600")
      .send(createReadStream(join(folder, file)));
  });
}
