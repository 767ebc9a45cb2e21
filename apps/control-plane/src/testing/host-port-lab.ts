import "reflect-metadata"; // before @peculiar/x509

import { createSecureServer } from "node:http2";
import { request } from "node:https";
import type { AddressInfo } from "node:net";

import { connectNodeAdapter } from "@connectrpc/connect-node";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import {
  controlPlaneName,
  hostCertificateSchema,
  hostPortPaths,
  type HeartbeatAnswer,
  type HeartbeatBody,
  type HostCertificate,
  type SandboxState,
} from "@roost/contract";
import { Cleanup, type Logger, must, SecretBox, silentLogger } from "@roost/kit";
import { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension } from "@peculiar/x509";

import { Audit } from "../audit/audit.ts";
import type { Database, Db } from "../db/database.ts";
import { insertSandbox } from "../db/sandboxes.ts";
import { certificateLifeMs, makeKeyPair, type CertificateAuthority, type KeyPair } from "../hosts/certificates.ts";
import type { HostDependency } from "../hosts/host-link.ts";
import { HostPlatform } from "../hosts/host-platform.ts";
import { openAuthority } from "../hosts/open-authority.ts";
import { keyCaller } from "./callers.ts";
import type { FakeHost } from "./fake-host.ts";
import { plainSandbox } from "./plain-sandbox.ts";

export const labSecretKey = "5".repeat(64);

/** A certificate and its key as a peer shows them, PEM. */
export interface Shown {
  readonly cert: string;
  readonly key: string;
  readonly ca?: string;
}

export interface PortAnswer {
  readonly status: number;
  readonly body: { readonly error?: { readonly code: string; readonly message: string } } & Record<string, unknown>;
}

export interface RegisteredHost {
  readonly id: string;
  readonly shown: Shown;
  readonly pair: KeyPair;
}

/** A control plane's hosts with their port on loopback, over a database, with a clock that can be set forward; no API. */
export class HostPortLab implements AsyncDisposable {
  readonly platform: HostPlatform;
  readonly port: number;
  readonly authority: CertificateAuthority;
  readonly database: Database;
  readonly ended: string[];
  readonly clock: { offsetMs: number };
  readonly operator = keyCaller(["hosts:read", "hosts:write", "admin"]);
  readonly #cleanup: Cleanup;

  private constructor(parts: Pick<HostPortLab, "platform" | "port" | "authority" | "database" | "ended" | "clock">, cleanup: Cleanup) {
    this.platform = parts.platform;
    this.port = parts.port;
    this.authority = parts.authority;
    this.database = parts.database;
    this.ended = parts.ended;
    this.clock = parts.clock;
    this.#cleanup = cleanup;
  }

  /** The caller closes the database. */
  static async start(
    database: Database,
    options: {
      readonly inProcess?: readonly HostDependency[];
      readonly log?: Logger;
      readonly times?: { readonly hostHeartbeatSec: number; readonly hostLeaseSec: number };
    } = {},
  ): Promise<HostPortLab> {
    const cleanup = new Cleanup();
    const ended: string[] = [];
    const clock = { offsetMs: 0 };
    const platform = await HostPlatform.open({
      options: { hostsAddress: "127.0.0.1", hostsPort: 0, ...(options.times ?? { hostHeartbeatSec: 10, hostLeaseSec: 30 }) },
      database,
      inProcess: options.inProcess ?? [],
      audit: new Audit(),
      secretKey: labSecretKey,
      onEnded: (id) => ended.push(id),
      log: options.log ?? silentLogger,
      now: () => new Date(Date.now() + clock.offsetMs),
    });
    cleanup.defer("let go of the hosts", async () => platform.close());
    cleanup.defer("close the host port", () => platform.closePort());
    const port = must(await platform.listen(), "the lab has a host port");
    const authority = await openAuthority(database.db, new SecretBox(labSecretKey, "hosts' certificate authority"), new Date());
    return new HostPortLab({ platform, port, authority, database, ended, clock }, cleanup);
  }

  /** `POST` to the host port. `shown`: the client certificate. */
  async post(path: string, body: unknown, shown?: Shown): Promise<PortAnswer> {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const sent = request(
        {
          host: "127.0.0.1",
          port: this.port,
          path,
          method: "POST",
          agent: false,
          ca: this.authority.pem,
          checkServerIdentity: (_name, certificate) =>
            certificate.subjectaltname === `URI:${controlPlaneName}` ? undefined : new Error(`talked to ${certificate.subjectaltname}`),
          headers: { "content-type": "application/json", "content-length": Buffer.byteLength(text) },
          ...(shown === undefined ? {} : { cert: shown.cert, key: shown.key }),
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on("data", (chunk: Buffer) => chunks.push(chunk));
          response.on("end", () => {
            const answer = Buffer.concat(chunks).toString("utf8");
            resolve({ status: response.statusCode ?? 0, body: JSON.parse(answer === "" ? "{}" : answer) as PortAnswer["body"] });
          });
          response.on("error", reject);
        },
      );
      sent.on("error", reject);
      sent.end(text);
    });
  }

  async registerWith(token: string, csr: string, address = "127.0.0.1:7072"): Promise<PortAnswer> {
    return this.post(hostPortPaths.register, { token, csr_pem: csr, address, description: testDescription });
  }

  /** Announces a host and registers it. */
  async register(name: string, address = "127.0.0.1:7072"): Promise<RegisteredHost> {
    const created = await this.platform.administration.create(this.operator, { name, tags: [], team_id: null });
    const pair = await makeKeyPair();
    const answer = await this.registerWith(created.registration.token, await makeRequest(pair), address);
    if (answer.status !== 200) throw new Error(`registration answered ${answer.status}: ${JSON.stringify(answer.body)}`);
    const certificate = hostCertificateSchema.parse(answer.body);
    await this.platform.directory.refresh();
    return { id: certificate.host_id, pair, shown: shownOf(certificate, pair) };
  }

  async beat(
    shown: Shown | undefined,
    more: Partial<HeartbeatBody> = {},
  ): Promise<PortAnswer & { readonly body: Partial<HeartbeatAnswer> }> {
    return this.post(hostPortPaths.heartbeat, { ...testHeartbeat(this.clock.offsetMs), ...more }, shown);
  }

  /** A certificate of the lab's authority for any name, as one that it never gave out. */
  async forge(name: string, lifeMs = certificateLifeMs): Promise<Shown> {
    const pair = await makeKeyPair();
    return { cert: (await this.authority.issue(name, pair.publicKey, new Date(), lifeMs)).pem, key: pair.privateKeyPem };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup.run();
  }
}

/** A sandbox's record, of a host that the test plays. */
export async function plantSandbox(db: Db, hostId: string, id: string, state: SandboxState = "creating"): Promise<void> {
  await insertSandbox(db, {
    ...plainSandbox,
    id,
    hostId,
    timeCreated: new Date(),
  });
  if (state !== "creating") await db.updateTable("sandbox").set({ state, generation: 1 }).where("id", "=", id).execute();
}

/** What answers on a host's address: `hostagent.v1` of a fake host over mutual TLS. */
export async function serveHostAgent(
  host: FakeHost,
  shown: Shown,
  ca: string,
): Promise<{ readonly address: string; readonly close: () => Promise<void> }> {
  const server = createSecureServer(
    { cert: shown.cert, key: shown.key, ca, requestCert: true, rejectUnauthorized: true, minVersion: "TLSv1.3" },
    connectNodeAdapter({ routes: (router) => void router.service(HostAgentService, host.service) }),
  );
  const sessions = new Set<{ destroy(): void }>();
  server.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
    session.on("error", () => undefined); // a client that goes away
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: async () => {
      for (const session of sessions) session.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** PKCS #10; with a name that it asks for. */
export async function makeRequest(pair: KeyPair, name?: string): Promise<string> {
  const csr = await Pkcs10CertificateRequestGenerator.create({
    name: name === undefined ? "CN=host" : `CN=${name}`,
    keys: { publicKey: pair.publicKey, privateKey: pair.privateKey },
    signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
    ...(name === undefined ? {} : { extensions: [new SubjectAlternativeNameExtension([{ type: "url", value: name }])] }),
  });
  return csr.toString("pem");
}

export function shownOf(certificate: HostCertificate, pair: KeyPair): Shown {
  return { cert: certificate.certificate_pem, key: pair.privateKeyPem, ca: certificate.ca_pem };
}

export const testDescription = {
  agent_version: "0.1.0",
  vmm: "fake",
  vmm_version: "1",
  accelerator: "tcg",
  accelerator_reason: "a test",
  kernel_version: "6.1",
  arch: "x64",
  cpu_count: 8,
  memory_mb: 16_384,
  disk_mb: 100_000,
  sandbox_count_max: 64,
} as const;

export function testHeartbeat(offsetMs = 0): HeartbeatBody {
  return {
    time: new Date(Date.now() + offsetMs).toISOString(),
    address: "127.0.0.1:7072",
    description: testDescription,
    load: { memory_free_mb: 16_000, disk_free_mb: 90_000, cpu_load: 0.5, sandbox_count: 1 },
    health: { is_healthy: true, problems: [] },
  };
}
