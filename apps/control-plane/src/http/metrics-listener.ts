import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

import { second } from "@roost/kit";

import type { ControlPlaneMetrics } from "./metrics.ts";

/** Scrapers ask one after the other; more connections than this are not theirs */
const connectionsMax = 16;
/** Time that a request, and its connection afterwards, has in `ms` */
const timeoutMs = 10 * second;

export interface MetricsListener {
  readonly port: number;
  close(): Promise<void>;
}

/** `GET /metrics` and nothing else, without a key, on a listener of its own: for scrapers in a network where only they are. */
export async function listenForMetrics(metrics: ControlPlaneMetrics, address: string, port: number): Promise<MetricsListener> {
  const server = createServer(
    { requestTimeout: timeoutMs, headersTimeout: timeoutMs, keepAliveTimeout: timeoutMs },
    (request, response) => {
      if (request.method !== "GET" || request.url !== "/metrics") return void response.writeHead(404).end();
      metrics.text().then(
        (text) => response.writeHead(200, { "content-type": metrics.contentType, "cache-control": "no-store" }).end(text),
        () => response.writeHead(503).end(),
      );
    },
  );
  server.maxConnections = connectionsMax;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, address, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
