import type { World } from "./world.ts";

/** What E2B's API answered. */
export interface E2bAnswer<Body = Record<string, unknown>> {
  readonly status: number;
  readonly headers: Headers;
  /** `{}` where there was none */
  readonly body: Body;
}

export async function askE2b<Body = Record<string, unknown>>(
  world: World,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<E2bAnswer<Body>> {
  const answer = await world.request(method, path, body, headers);
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, body: (text === "" ? {} : JSON.parse(text)) as Body };
}

/** Creates a sandbox as the SDK does; what `more` says wins. */
export async function makeE2bSandbox(
  world: World,
  more: object = {},
  path = "/sandboxes",
): Promise<Record<string, unknown> & { sandboxID: string }> {
  const { status, body } = await askE2b(world, "POST", path, { templateID: "base", timeout: 300, secure: true, ...more });
  if (status !== 201) throw new Error(`create answered ${status}: ${JSON.stringify(body)}`);
  return body as { sandboxID: string };
}
