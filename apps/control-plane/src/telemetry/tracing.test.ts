import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";

import { silentLogger } from "@roost/kit";
import { startTelemetry } from "@roost/kit/telemetry";
import { inSpan, isTracing, openSpan, traceHeaders } from "@roost/kit/tracing";
import { afterAll, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";
import { tracedTransport } from "./traced-transport.ts";

interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly attributes: readonly { readonly key: string; readonly value: unknown }[];
}

/** Takes what exporters send, as JSON. */
class Collector implements AsyncDisposable {
  readonly spans: Span[] = [];
  readonly bodies: string[] = [];
  readonly resources: string[] = [];
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const body = Buffer.concat(chunks).toString("utf8");
        this.bodies.push(body);
        if (request.url === "/v1/traces") this.#take(JSON.parse(body) as never);
        response.writeHead(200, { "content-type": "application/json" }).end("{}");
      });
    });
  }

  static async start(): Promise<Collector> {
    const collector = new Collector();
    await new Promise<void>((resolve) => collector.#server.listen(0, "127.0.0.1", resolve));
    return collector;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  #take(sent: { resourceSpans: { resource: unknown; scopeSpans: { spans: Span[] }[] }[] }): void {
    for (const { resource, scopeSpans } of sent.resourceSpans) {
      this.resources.push(JSON.stringify(resource));
      this.spans.push(...scopeSpans.flatMap(({ spans }) => spans));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

const incoming = { traceId: "0af7651916cd43dd8448eb211c80319c", spanId: "b7ad6b7169203331" };
const traceparent = `00-${incoming.traceId}-${incoming.spanId}-01`;

let spans: readonly Span[] = [];
const toGuest: string[] = [];
let sent = "";
let resources: readonly string[] = [];
beforeAll(async () => {
  await using collector = await Collector.start();
  const environment = { OTEL_EXPORTER_OTLP_ENDPOINT: `${collector.url}/` };
  const telemetry = await startTelemetry({ serviceName: "roost-test", serviceVersion: "1", environment, log: silentLogger });
  expect(telemetry).toBeDefined();
  expect(isTracing()).toBe(true);
  try {
    await using world = await World.start();
    world.guest.onRequest = (headers) => void toGuest.push(String(headers["traceparent"]));
    const { id } = await world.createSandbox({});
    const answer = await world.request(
      "POST",
      `/v1/sandboxes/${id}/exec`,
      { cmd: "echo", args: ["s3cret"], envs: { TOKEN: "hidden" } },
      { traceparent },
    );
    expect(await answer.json()).toMatchObject({ stdout: "s3cret\n" });
    await (await world.request("GET", "/v1/sandboxes/idoesnotexist", undefined, { traceparent: "nonsense" })).text();
    const socket = await world.socket(`/v1/sandboxes/${id}/exec/stream`).open();
    socket.send({ type: "start", cmd: "true" });
    await socket.until("exit");
    await socket.ended;
  } finally {
    await telemetry?.close();
  }
  spans = collector.spans;
  resources = collector.resources;
  sent = collector.bodies.join("");
}, 60_000);
afterAll(() => expect(isTracing()).toBe(false));

const byName = (name: string) => spans.filter((span) => span.name === name);
const parentOf = (span: Span | undefined) => spans.find(({ spanId }) => spanId === span?.parentSpanId);

test("a command's trace goes from the caller through the API to the guest's agent", () => {
  const [request] = byName("POST /v1/sandboxes/:id/exec");
  expect(request).toMatchObject({ traceId: incoming.traceId, parentSpanId: incoming.spanId });
  const start = byName("process.Process/Start").find(({ traceId }) => traceId === incoming.traceId);
  expect(parentOf(start)?.name).toBe("POST /v1/sandboxes/:id/exec");
  expect(toGuest).toContain(`00-${incoming.traceId}-${start?.spanId}-01`);
});

test("what a host is asked for is part of the request that needs it", () => {
  const [create] = byName("hostagent.v1.HostAgentService/CreateSandbox");
  expect(parentOf(create)?.name).toBe("POST /v1/sandboxes");
});

test("a command over a WebSocket is a span of its socket's", () => {
  const [socket] = byName("WS /v1/sandboxes/{id}/exec/stream");
  expect(socket).toBeDefined();
  expect(byName("process.Process/Start").some((span) => parentOf(span) === socket)).toBe(true);
});

test("a trace that cannot be one is not gone on with; statuses are told, nothing that users wrote is", () => {
  const [missing] = byName("GET /v1/sandboxes/:id");
  expect(missing?.parentSpanId ?? "").toBe("");
  expect(missing?.attributes).toContainEqual({ key: "http.response.status_code", value: { intValue: 404 } });
  for (const word of ["s3cret", "hidden", "echo"]) expect(sent).not.toContain(word);
  expect(resources.every((resource) => resource.includes("roost-test"))).toBe(true);
});

test("off, nothing is done: no SDK, no span, no header, the same transport", async () => {
  expect(await startTelemetry({ serviceName: "x", serviceVersion: "1", environment: {}, log: silentLogger })).toBeUndefined();
  expect(isTracing()).toBe(false);
  expect(openSpan("nothing")).toBeUndefined();
  expect(traceHeaders()).toEqual({});
  const transport = { unary: async () => undefined as never, stream: async () => undefined as never };
  expect(tracedTransport(transport, "host-agent")).toBe(transport);
  const work = Promise.resolve(7);
  expect(await inSpan("nothing", {}, () => work)).toBe(7);
  await using world = await World.start();
  const seen: unknown[] = [];
  world.guest.onRequest = (headers) => void seen.push(headers["traceparent"]);
  const { id } = await world.createSandbox({});
  await (await world.request("POST", `/v1/sandboxes/${id}/exec`, { cmd: "true" }, { traceparent })).text();
  expect(seen.length).toBeGreaterThan(0);
  expect(new Set(seen)).toEqual(new Set([undefined]));
});
