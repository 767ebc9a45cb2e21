import "./fast-base64.ts";
import { setMaxListeners } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";

import { guestLogMarkHeader, guestLogsPath } from "@roost/contract";
import { createLogger, must, type Logger } from "@roost/kit";

import { expandPath, type GuestContext } from "./context.ts";
import { handleFiles } from "./files/files-routes.ts";
import { createFilesystemService } from "./filesystem/filesystem-service.ts";
import { Watchers } from "./filesystem/watchers.ts";
import { createConnectRoutes } from "./http/connect-routes.ts";
import { createGuestServer, type PlainRoute } from "./http/guest-server.ts";
import { sendJson } from "./http/http-error.ts";
import { createGuestMachine, type GuestMachine } from "./init/guest-machine.ts";
import { handleInit } from "./init/init-route.ts";
import { InitState } from "./init/init-state.ts";
import { handlePrepare } from "./init/prepare-route.ts";
import { WarmUp } from "./init/warm-up.ts";
import { Launcher } from "./launcher/launcher.ts";
import { handleLogs } from "./logs/logs-route.ts";
import { ProcessLog } from "./logs/process-log.ts";
import { GuestMetricsSource } from "./metrics/guest-metrics.ts";
import type { GuestAgentOptions } from "./options.ts";
import { PortForwards } from "./ports/port-forwards.ts";
import { createProcessService } from "./process/process-service.ts";
import { ProcessStreams } from "./process/process-streams.ts";
import { ProcessTable } from "./process/process-table.ts";
import { Users } from "./users/users.ts";

export interface GuestAgent {
  /** Answers the port the agent listens on. */
  listen(): Promise<number>;
  /** Ends connections, streams and the launcher. Processes go on, as children of init. */
  close(): Promise<void>;
}

export interface GuestAgentParts {
  /** Program that starts processes: the built `native/launcher.c` */
  readonly launcher: string;
  /** Nothing can be started any more; whoever runs the agent starts it afresh. */
  readonly onFailure: (error: Error) => void;
  readonly log?: Logger;
  /** For tests; default: the real guest. */
  readonly machine?: GuestMachine;
}

/** Builds the guest agent of its parts. Nothing runs before `listen`, but the launcher. */
export function createGuestAgent(options: GuestAgentOptions, parts: GuestAgentParts): GuestAgent {
  const log = parts.log ?? createLogger({ level: options.logLevel, name: "guest-agent" });
  const state = new InitState(`${options.stateFolder}/init.json`, log);
  const users = new Users({ etcFolder: options.etcFolder, defaultName: () => state.defaultUser });
  const context: GuestContext = {
    log,
    users,
    accessToken: () => state.accessToken,
    mayPass: (headerToken) => state.mayPass(headerToken),
    expandPath: (path, user) => expandPath(path === "" ? (state.defaultWorkdir ?? "") : path, user),
    agentDiskFolder: options.agentDiskFolder,
  };
  const forwards = new PortForwards({ outerAddress: options.outerAddress, agentPort: options.port, log });
  const launcher = new Launcher(parts.launcher, log, {
    onListener: (port, families) => forwards.onListener(port, families),
    onFailure: parts.onFailure,
  });
  const processLog = new ProcessLog(`start ${Date.now()}`);
  const table = new ProcessTable(launcher, processLog, log);
  const watchers = new Watchers(log);
  const streams = new ProcessStreams(context, table, state);
  const shutdown = new AbortController();
  setMaxListeners(0, shutdown.signal); // one for each call in progress
  const warmUp = new WarmUp({
    port: () => portOf(server),
    state,
    userName: () => users.byName(state.defaultUser ?? "user")?.name ?? "root",
    log,
  });
  const server = createGuestServer({
    context,
    plain: plainRoutes({ context, state, machine: parts.machine ?? createGuestMachine(launcher, log), warmUp, processLog }),
    connect: createConnectRoutes(
      { process: createProcessService(table, streams), filesystem: createFilesystemService(context, watchers) },
      streams,
      log,
      shutdown.signal,
    ),
  });

  return {
    async listen() {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen({ host: options.host, port: options.port, backlog: 1024 }, () => {
          server.off("error", reject);
          resolve();
        });
      });
      launcher.scanListeners(options.scanIntervalMs);
      const port = portOf(server);
      log.info({ port }, "guest agent listens");
      return port;
    },

    async close() {
      shutdown.abort(new Error("the guest agent ends"));
      forwards.close();
      const closed = new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
      server.closeAllConnections();
      await closed;
      watchers.close();
      table.close();
      launcher.close();
    },
  };
}

function portOf(server: Server): number {
  return (must(server.address(), "the address of a listening server") as AddressInfo).port;
}

interface PlainParts {
  readonly context: GuestContext;
  readonly state: InitState;
  readonly machine: GuestMachine;
  readonly warmUp: WarmUp;
  readonly processLog: ProcessLog;
}

function plainRoutes({ context, state, machine, warmUp, processLog }: PlainParts): ReadonlyMap<string, PlainRoute> {
  const metrics = new GuestMetricsSource();
  const files: PlainRoute = {
    methods: ["GET", "HEAD", "POST"],
    access: "own", // by header or by signature
    handle: async (request, response, url) => handleFiles(request, response, url(), context),
  };
  return new Map<string, PlainRoute>([
    ["/health", { methods: ["GET", "HEAD"], access: "own", handle: (_request, response) => void response.writeHead(204).end() }],
    [
      "/metrics",
      {
        methods: ["GET"],
        access: "checked",
        handle: async (_request, response) => {
          const measured = await metrics.measure();
          response.setHeader(guestLogMarkHeader, processLog.mark);
          sendJson(response, 200, measured);
        },
      },
    ],
    [guestLogsPath, { methods: ["GET"], access: "checked", handle: (_request, response, url) => handleLogs(response, url(), processLog) }],
    ["/envs", { methods: ["GET"], access: "checked", handle: (_request, response) => sendJson(response, 200, state.envVars) }],
    [
      "/init",
      {
        methods: ["POST"],
        access: "own",
        handle: async (request, response) => {
          await handleInit(request, response, { state, machine, processLog, log: context.log });
          const { defaultUser } = state;
          if (defaultUser !== undefined && context.users.byName(defaultUser) === undefined)
            context.log.warn({ defaultUser }, "the default user does not exist: requests that name none are refused");
        },
      },
    ],
    [
      "/prepare",
      {
        methods: ["POST"],
        access: "checked",
        handle: async (request, response) => handlePrepare(request, response, { state, machine, processLog, warmUp }),
      },
    ],
    ["/files", files],
    ["/files/compose", { ...files, methods: ["POST"] }],
  ]);
}
