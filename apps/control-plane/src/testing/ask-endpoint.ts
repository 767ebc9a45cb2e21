import {
  endpoints,
  errorBodySchema,
  errorCatalogue,
  parameterNames,
  type Endpoint,
  type EndpointId,
  type ErrorCode,
} from "@roost/contract";
import { expect } from "vitest";

import { endpointExamples } from "./endpoint-examples.ts";
import type { PathParameter, Planted } from "./planted.ts";
import type { World } from "./world.ts";

/** Bytes of an answer that are looked at: one that never ends (events) must not be waited for */
const answerBytesMax = 256 * 1024;

export interface Answer {
  readonly status: number;
  readonly body: string;
}

/** The path of an endpoint's example with what `of` has, except for what `instead` says. */
export function pathOfExample(id: EndpointId, of: Planted, instead: Partial<Record<PathParameter, string>> = {}): string {
  const example = endpointExamples[id];
  const filled = parameterNames(endpoints[id].path).reduce((path, parameter) => {
    const planted = parameter === "name" && example.name === "snapshot" ? of.snapshot : of.ids[parameter];
    return path.replace(`{${parameter}}`, encodeURIComponent(instead[parameter] ?? planted));
  }, endpoints[id].path as string);
  return filled + (example.query ?? "");
}

export function bodyOfExample(id: EndpointId, of: Planted): unknown {
  const { body } = endpointExamples[id];
  return typeof body === "function" ? body(of) : body;
}

/** Sends a request to an endpoint; a WebSocket that opens is an answer with 101. */
export async function askEndpoint(
  world: World,
  id: EndpointId,
  path: string,
  { headers, body }: { readonly headers: Readonly<Record<string, string>>; readonly body?: unknown },
): Promise<Answer> {
  const endpoint: Endpoint = endpoints[id];
  if (endpoint.webSocket !== undefined) {
    const socket = world.socket(path, { headers });
    const opened = new Promise<Answer>((resolve) => socket.raw.once("open", () => resolve({ status: 101, body: "" })));
    const answer = await Promise.race([opened, socket.ended.then((end) => ({ status: end.status ?? 0, body: end.body ?? "" }))]);
    socket.raw.terminate();
    return answer;
  }
  const answer = await world.request(endpoint.method, path, body, { ...headers });
  if (id !== "followEvents" || !answer.ok) return { status: answer.status, body: (await answer.text()).slice(0, answerBytesMax) };
  const reader = answer.body?.getReader();
  const first = await Promise.race([reader?.read(), new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), 200))]);
  await reader?.cancel();
  return { status: answer.status, body: Buffer.from(first?.value ?? []).toString("utf8") };
}

export function codeOf(answer: Answer): ErrorCode {
  const { error } = errorBodySchema.parse(JSON.parse(answer.body));
  expect(errorCatalogue[error.code].status, "the status is the catalogue's").toBe(answer.status);
  return error.code;
}
