import type { AddressInfo } from "node:net";
import { join } from "node:path";

import { noTemplateDefaults } from "@roost/contract";
import { Cleanup, poll, second, type Logger } from "@roost/kit";

import { createAccounts, type Accounts } from "./accounts/accounts.ts";
import type { PasswordCost } from "./accounts/passwords.ts";
import { createChannelServices, type ChannelServices } from "./channels/channel-services.ts";
import { countByState, findSandboxOfAnyTeam, listOfHost } from "./db/sandboxes.ts";
import { openDatabase, type Database, type DatabaseLocation } from "./db/database.ts";
import { runEmbeddedUpkeep } from "./db/embedded-upkeep.ts";
import { listTemplates } from "./db/hosts.ts";
import { countPlatform } from "./db/platform-counts.ts";
import { listTokenHolders } from "./db/token-holders.ts";
import { Events } from "./events/events.ts";
import { followRunningCommands, ResumedCommands } from "./guest/followers.ts";
import { Guests } from "./guest/guests.ts";
import type { HostDependency, HostLink } from "./hosts/host-link.ts";
import { HostPlatform } from "./hosts/host-platform.ts";
import { runPerHost } from "./hosts/per-host.ts";
import { ApiKeyAuthenticator, Authentication } from "./http/authentication.ts";
import { ClientAddresses } from "./http/client-address.ts";
import { listenForMetrics } from "./http/metrics-listener.ts";
import { ControlPlaneMetrics } from "./http/metrics.ts";
import { buildServer, type HttpDeadlines } from "./http/server.ts";
import type { Services } from "./http/services.ts";
import { Upgrades } from "./http/web-socket/upgrades.ts";
import { OpenTunnels } from "./tunnels/open-tunnels.ts";
import { asksForHttp2, noteAnswer, serveWithoutUpgrade } from "./http/without-upgrade.ts";
import type { Mailer } from "./mail/mailer.ts";
import type { ControlPlaneOptions } from "./options.ts";
import { noteGuestAgentUse } from "./proxy/guest-agent-use.ts";
import { PortKeys } from "./proxy/port-keys.ts";
import { PortUrls } from "./proxy/port-urls.ts";
import { Proxy } from "./proxy/proxy.ts";
import { Ports } from "./sandboxes/ports.ts";
import { present } from "./sandboxes/present.ts";
import { Reconciler } from "./sandboxes/reconciler.ts";
import { runRetention } from "./sandboxes/retention.ts";
import { Sandboxes } from "./sandboxes/sandboxes.ts";
import { Snapshots } from "./snapshots/snapshots.ts";
import { readSecretKey } from "./secrets/secret-key.ts";
import { ApiKeys } from "./teams/api-keys.ts";
import { Teams } from "./teams/teams.ts";
import { isTlsWanted, TlsService } from "./tls/tls-service.ts";
import { BuildRunner } from "./templates/run/build-runner.ts";
import { startAndAwait } from "./templates/run/start-command.ts";
import { createTemplateServices, type TemplateServices } from "./templates/template-services.ts";
import { Bookkeeping } from "./usage/bookkeeping.ts";

/** Connections that may wait to be accepted: a program that opens 1,000 streams at once is not made to wait a second for its next try */
const listenBacklog = 2_048;

export interface ControlPlaneDependencies {
  readonly hosts: readonly HostDependency[];
  readonly log: Logger;
  /** An open database, which the caller closes; without one it is opened as the options say. */
  readonly database?: Database;
  readonly deadlines?: HttpDeadlines;
  /** In place of what the options say */
  readonly mailer?: Mailer | undefined;
  /** Work of hashing a password; tests have cheap ones. */
  readonly passwordCost?: PasswordCost | undefined;
}

export interface ControlPlane {
  readonly apiKeys: ApiKeys;
  /** Answers requests from now on; returns where. */
  listen(): Promise<{
    readonly url: string;
    readonly port: number;
    readonly tlsUrl: string | undefined;
    readonly hostsPort: number | undefined;
  }>;
  /** Takes no new work, finishes what runs within `drainTimeoutSec`, closes sockets with 1001. */
  drain(): Promise<void>;
  /** Drains, then lets go of everything. Sandboxes stay as they are. */
  close(): Promise<void>;
}

/** Opens the database, follows the hosts, and gets the API ready. Nothing listens before `listen`. */
export async function createControlPlane(options: ControlPlaneOptions, deps: ControlPlaneDependencies): Promise<ControlPlane> {
  const owned = new Cleanup();
  try {
    return await build(options, deps, owned);
  } catch (error) {
    await owned.run();
    throw error;
  }
}

async function build(options: ControlPlaneOptions, deps: ControlPlaneDependencies, owned: Cleanup): Promise<ControlPlane> {
  const log = deps.log.child({ service: "control-plane" });
  const database = deps.database ?? (await openDatabase(databaseLocation(options), log));
  if (deps.database === undefined) owned.defer("close the database", () => database.close());

  const secretKey = await readSecretKey(options);
  const bookkeeping = new Bookkeeping({
    db: database.db,
    hosts: () => hosts.all(),
    auditRetentionSec: options.auditRetentionSec,
    log,
  });
  owned.defer("store the audit entries that wait", () => bookkeeping.close());
  const hostPlatform = await HostPlatform.open({
    options,
    database,
    inProcess: deps.hosts,
    audit: bookkeeping.audit,
    secretKey,
    onEnded: (sandboxId) => onEnded(sandboxId),
    moveAway: async (host, signal) => sandboxes.moves.moveAway(host, signal),
    log,
  });
  const { hosts } = hostPlatform;
  owned.defer("let go of hosts", async () => hostPlatform.close());
  const guests = new Guests(hosts);
  owned.defer("close guest connections", () => guests.close());
  const resumedCommands = new ResumedCommands(guests, log);
  owned.defer("forget resumed commands", () => resumedCommands.close());
  const onEnded = (sandboxId: string) => {
    resumedCommands.forget(sandboxId);
    guests.drop(sandboxId);
    proxy.drop(sandboxId);
    bookkeeping.metricStore.poke();
  };
  const events = new Events(database.db, log);
  const channelServices = createChannelServices({
    db: database.db,
    audit: bookkeeping.audit,
    secretKey,
    webhookAllowedRanges: options.webhookAllowedRanges,
    onAttempt: (isTaken) => metrics.countDelivery(isTaken),
    log,
  });
  const templateServices = createTemplateServices({ db: database.db, hosts, ...options, pokeBuilds: () => buildRunner.poke(), log });
  const { templates, lookup, builds, files: buildFiles } = templateServices;
  owned.defer("forget credentials of builds", async () => builds.close());
  const tunnels = new OpenTunnels();
  const sandboxes = new Sandboxes({
    secretKey,
    database,
    hosts,
    log,
    onEnded,
    onBeforeEnd: (sandboxId, host) => bookkeeping.metricStore.collectLast(sandboxId, host),
    onCreate: (result, durationMs) => metrics.observeCreate(result, durationMs),
    storedMetrics: (sandboxId, rangeSec) => bookkeeping.metricStore.read(sandboxId, rangeSec),
    onChanged: (sandboxId) => proxy.recordChanged(sandboxId),
    onPausing: (sandboxId) => {
      proxy.pausing(sandboxId);
      tunnels.pausing(sandboxId);
    },
    onResumed: (row) => resumedCommands.resumed(row),
    onEvent: (event) => events.record(event),
    cpuOvercommit: options.cpuOvercommit,
    resolveTemplate: (teamId, name) => lookup.resolve(teamId, name),
    startCommand: (row, defaults, signal) => startAndAwait(guests.of(row), defaults, { signal, log: log.child({ sandboxId: row.id }) }),
  });
  await sandboxes.networks.sealOld();
  const buildRunner = new BuildRunner({
    ...templateServices,
    db: database.db,
    isExclusive: database.isExclusive,
    hosts,
    sandboxes,
    guests,
    atOnceMax: options.buildsAtOnce,
    timeoutMs: options.buildTimeoutSec * second,
    onRemoval: () => templateServices.upkeep.poke(),
    log,
  });
  const snapshots = new Snapshots({
    database,
    records: sandboxes.records,
    hosts,
    log,
    onRemoval: () => templateServices.upkeep.poke(),
  });
  const apiKeys = new ApiKeys({ db: database.db, audit: bookkeeping.audit, log });
  const { mailer, passwordCost } = deps;
  const accounts = createAccounts(options, { db: database.db, apiKeys, audit: bookkeeping.audit, secretKey, log, mailer, passwordCost });
  await accounts.setUp.offer();
  const addresses = new ClientAddresses(options.trustedProxies);
  const authentication = new Authentication([new ApiKeyAuthenticator(apiKeys), accounts.authenticator], addresses, (caller) =>
    accounts.teamRequests.count(caller.teamId),
  );
  const metrics = new ControlPlaneMetrics(
    () => countByState(database.db),
    () => hosts.all().map((link) => ({ id: link.id, isWatched: link.isWatching })),
    {
      counts: async () => countPlatform(database.db, new Date()),
      databaseConnections: database.connections,
      clockAheadMs: async () => database.clockAheadMs(),
      auditEntriesWaiting: () => bookkeeping.auditQueue.waitingCount,
    },
  );
  owned.defer("count no more", async () => metrics.close());
  if (options.metricsPort !== undefined) {
    const listener = await listenForMetrics(metrics, options.metricsAddress, options.metricsPort);
    owned.defer("close the listener for metrics", () => listener.close());
    log.info({ address: options.metricsAddress, port: listener.port }, "metrics are served without a key");
  }

  const portKeys = new PortKeys(secretKey);
  const portUrls = new PortUrls({ ...options, isTls: isTlsWanted(options) });
  const proxy = new Proxy({
    portKeys,
    openRequestsMax: options.sandboxConnections,
    // whose it is does not matter here: who knows its tokens may, and anybody where its ports are public
    find: async (id) => {
      const row = await findSandboxOfAnyTeam(database.db, id);
      return row?.for_build_id === null ? row : undefined;
    },
    present: (row) => present(row, sandboxes.records.now()),
    listTokenHolders: (limit) => listTokenHolders(database.db, limit),
    wake: (row) => sandboxes.lifecycle.usable(row),
    changed: (id, timeoutMs) => sandboxes.records.changed(id, timeoutMs),
    tunnelsOf: (hostId) => hosts.get(hostId).tunnels,
    onGuestAgentUse: options.auditCommands ? (use) => noteGuestAgentUse(bookkeeping.auditQueue, addresses, use) : undefined,
    metrics,
    log,
  });
  owned.defer("cut requests to guests", () => proxy.close());

  const loops = startLoops(options, {
    database,
    sandboxes,
    events,
    guests,
    templateServices,
    buildRunner,
    bookkeeping,
    channelServices,
    accounts,
    hostPlatform,
    proxy,
    onEnded,
    log,
  });
  owned.defer("end the loops", loops.end);

  let isDraining = false;
  const services: Services = {
    sandboxes,
    ports: new Ports({ database, records: sandboxes.records, keys: portKeys, urls: portUrls }),
    snapshots,
    teams: new Teams(database.db),
    templates,
    lookup,
    builds,
    buildFiles,
    events,
    ...channelServices,
    guests,
    hosts,
    hostAdministration: hostPlatform.administration,
    authentication,
    apiKeys,
    accounts,
    metrics,
    bookkeeping,
    auditCommands: options.auditCommands,
    ping: () => database.ping(),
    listHostTemplates: async (ageMs) => {
      const described = await hosts.describe(ageMs);
      return described.length === 0
        ? (await listTemplates(database.db)).map((row) => ({ ...row, defaults: noTemplateDefaults, time_created: new Date(0) }))
        : uniqueByName(described.flatMap(({ description }) => description.templates));
    },
    domain: options.domain ?? null,
    log,
    isDraining: () => isDraining,
  };
  const upgrades = new Upgrades(services, options.allowedOrigins, tunnels);
  const app = await buildServer(services, deps.deadlines, proxy);
  app.server.on("upgrade", (request, stream, head) => {
    if (asksForHttp2(request)) serveWithoutUpgrade(app.server, request, stream, head);
    else (proxy.claims(request) ? proxy : upgrades).upgrade(request, stream, head);
  });
  const tls = await TlsService.open(options, log);
  owned.defer("close the TLS listener", async () => tls?.close());
  let inFlight = 0;
  app.server.on("request", (request, response) => {
    noteAnswer(request, response);
    inFlight += 1;
    response.once("close", () => (inFlight -= 1));
  });
  owned.defer("close the host port", () => hostPlatform.closePort());
  owned.defer("close the HTTP server", async () => {
    upgrades.close();
    app.server.closeAllConnections();
    await app.close();
  });

  let draining: Promise<void> | undefined;
  const drain = async () => {
    isDraining = true;
    sandboxes.drain();
    tls?.drain();
    app.server.close();
    app.server.closeIdleConnections();
    await Promise.all([upgrades.drain(), proxy.drain(), channelServices.eventStreams.drain()]);
    const done = () => (inFlight === 0 ? true : undefined);
    await poll({ what: "the end of requests in flight", timeoutMs: options.drainTimeoutSec * second }, done).catch((error: unknown) =>
      log.warn({ err: error, inFlight }, "cutting off requests"),
    );
  };
  return {
    apiKeys,
    listen: async () => {
      await app.listen({ host: options.address, port: options.port, backlog: listenBacklog });
      const { port } = app.server.address() as AddressInfo;
      const host = options.address.includes(":") ? `[${options.address}]` : options.address;
      log.info({ address: options.address, port }, "the API listens");
      const tlsUrl = await tls?.listen(app.server);
      portUrls.listening(port, tlsUrl === undefined ? undefined : Number(new URL(tlsUrl).port || 443));
      return { url: `http://${host}:${port}`, port, tlsUrl, hostsPort: await hostPlatform.listen() };
    },
    drain: () => (draining ??= drain()),
    close: async () => {
      await (draining ??= drain());
      await owned.run();
    },
  };
}

/** Where the options say that the records are. */
export function databaseLocation(options: ControlPlaneOptions): DatabaseLocation {
  return options.databaseUrl === undefined
    ? ({ kind: "folder", path: join(options.dir, "db"), cacheFolder: options.cacheDir } as const)
    : ({ kind: "server", url: options.databaseUrl } as const);
}

function uniqueByName<Item extends { readonly name: string }>(items: readonly Item[]): Item[] {
  return [...new Map(items.map((item) => [item.name, item])).values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

interface LoopParts {
  readonly database: Database;
  readonly hostPlatform: HostPlatform;
  readonly proxy: Proxy;
  readonly sandboxes: Sandboxes;
  readonly events: Events;
  readonly guests: Guests;
  readonly templateServices: TemplateServices;
  readonly buildRunner: BuildRunner;
  readonly bookkeeping: Bookkeeping;
  readonly channelServices: ChannelServices;
  readonly accounts: Accounts;
  readonly onEnded: (sandboxId: string) => void;
  readonly log: Logger;
}

/** Per host one watch and one reconciler; and the forgetting of old records. */
function startLoops(
  options: ControlPlaneOptions,
  {
    database,
    hostPlatform,
    proxy,
    sandboxes,
    events,
    guests,
    templateServices,
    buildRunner,
    bookkeeping,
    channelServices,
    accounts,
    onEnded,
    log,
  }: LoopParts,
): { end(): Promise<void> } {
  const abort = new AbortController();
  const followHost = (host: HostLink, signal: AbortSignal) => {
    const reconciler = new Reconciler({
      db: database.db,
      host,
      isExclusive: database.isExclusive,
      onEnded,
      strayGraceMs: options.strayGraceSec * second,
      log,
    });
    let isFirstSync = true;
    return [
      reconciler.run(signal),
      host.run(signal, {
        observed: (sandbox) => sandboxes.observe(sandbox),
        removed: (id) => sandboxes.observeRemoved(id, host.id),
        lastEventId: () => events.lastOf(host.id),
        happened: async (event) => {
          // What is recorded is not told again: what follows from it comes first, and may be done twice
          await bookkeeping.usage.happened(event);
          await events.record(event);
        },
        synced: async () => {
          reconciler.poke();
          if (!isFirstSync) return;
          isFirstSync = false;
          templateServices.upkeep.poke(); // it may have snapshots that are not recorded yet
          void followRunningCommands(await listOfHost(database.db, host.id), guests, log);
        },
      }),
    ];
  };
  const running: Promise<void>[] = [
    runEmbeddedUpkeep(database, log, abort.signal),
    runRetention(database.db, options.stoppedRetentionSec, log, abort.signal),
    sandboxes.expiry.run(abort.signal),
    sandboxes.recovery.run(abort.signal),
    sandboxes.moves.run(abort.signal),
    templateServices.upkeep.run(abort.signal),
    buildRunner.run(abort.signal),
    bookkeeping.run(abort.signal),
    channelServices.run(abort.signal),
    accounts.run(abort.signal),
    hostPlatform.run(abort.signal),
    proxy.run(abort.signal),
    runPerHost(hostPlatform.hosts, abort.signal, followHost),
  ];
  return {
    end: async () => {
      abort.abort();
      await Promise.all(running);
    },
  };
}
