import { templateListSchema } from "../sandboxes.ts";
import { filesPresenceSchema, filesQuerySchema, setTagBodySchema, templateDetailSchema } from "../templates.ts";
import type { Endpoint } from "./endpoint.ts";

export const templateEndpoints = {
  listTemplates: {
    method: "GET",
    path: "/v1/templates",
    access: "templates:read",
    summary: "What sandboxes can start from",
    answers: { 200: templateListSchema },
    errors: [],
  },
  getTemplate: {
    method: "GET",
    path: "/v1/templates/{name}",
    access: "templates:read",
    summary: "One template, by name or id",
    answers: { 200: templateDetailSchema },
    errors: ["template_not_found", "host_unreachable"],
  },
  deleteTemplate: {
    method: "DELETE",
    path: "/v1/templates/{name}",
    access: "templates:write",
    summary: "Delete a built template with all its builds; refused while sandboxes of it exist",
    answers: { 204: "empty" },
    errors: ["template_not_found", "template_in_use"],
  },
  setTemplateTag: {
    method: "PUT",
    path: "/v1/templates/{name}/tags/{tag}",
    access: "templates:write",
    summary: "Let a tag of a built template mean this build from now on",
    body: setTagBodySchema,
    answers: { 200: templateDetailSchema },
    errors: ["template_not_found", "build_not_found", "build_wrong_state"],
  },
  removeTemplateTag: {
    method: "DELETE",
    path: "/v1/templates/{name}/tags/{tag}",
    access: "templates:write",
    summary: "Remove a tag of a built template; `default` stays",
    answers: { 204: "empty" },
    errors: ["template_not_found"],
  },
  findTemplateFiles: {
    method: "GET",
    path: "/v1/templates/files/{hash}",
    access: "templates:read",
    summary: "Whether an archive that a recipe names was uploaded",
    query: filesQuerySchema,
    answers: { 200: filesPresenceSchema },
    errors: [],
  },
  putTemplateFiles: {
    method: "PUT",
    path: "/v1/templates/files/{hash}",
    access: "templates:write",
    summary: "Upload an archive that a recipe names: tar, also compressed, with an exact content-length",
    query: filesQuerySchema,
    body: "stream",
    answers: { 204: "empty" },
    errors: ["request_too_large", "template_exists", "host_unreachable"],
  },
} as const satisfies Record<string, Endpoint>;
