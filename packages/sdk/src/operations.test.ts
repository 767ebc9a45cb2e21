import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";

import { expect, test } from "vitest";

import { RoostClient } from "./client.ts";

test("a request that is named says so, others do not", async () => {
  const seen: IncomingHttpHeaders[] = [];
  const server = createServer((request, response) => {
    seen.push(request.headers);
    request.resume();
    response.writeHead(200, { "content-type": "application/json" }).end('{"operations":[]}');
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const { port } = server.address() as AddressInfo;
    const client = new RoostClient({ url: `http://127.0.0.1:${port}`, apiKey: `roost_${"0".repeat(40)}` });
    expect(await client.operations.list({ subject: "i1" })).toEqual([]);
    await client.sandboxes.create({}, { idempotencyKey: "once" }).catch(() => undefined); // this server answers nonsense
    expect(seen.map((headers) => headers["idempotency-key"])).toEqual([undefined, "once"]);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});
