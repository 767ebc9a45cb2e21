import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import type { TLSSocket } from "node:tls";

import {
  certificateName,
  errorCodeHeader,
  PlatformError,
  type HeartbeatAnswer,
  type HeartbeatBody,
  type RegisterHostBody,
} from "@roost/contract";
import { TestAuthority, type TestIdentity } from "@roost/testing";

/** A control plane's host port that does what a test says; it has the contract's paths, and certificates of its own authority. */
export class FakeControlPlane implements AsyncDisposable {
  readonly authority: TestAuthority;
  readonly hostId = "h0123456789abcdefghij";
  readonly secret = "ab".repeat(32);
  /** What was asked, in order: a path, and the name that the asker showed */
  readonly asked: { readonly path: string; readonly name: string | undefined }[] = [];
  readonly registrations: RegisterHostBody[] = [];
  readonly heartbeats: HeartbeatBody[] = [];
  /** What it refuses with from now on */
  refuses: PlatformError | undefined;
  /** Answers that are lost: what was asked is done, and the connection breaks */
  losesAnswers = 0;
  /** How long certificates that it issues live from now on, in `ms` */
  lifeMs = 3_600_000;
  answer: Partial<HeartbeatAnswer> = {};
  readonly #server: Server;

  private constructor(authority: TestAuthority, shown: TestIdentity) {
    this.authority = authority;
    this.#server = createServer(
      {
        key: shown.keyPem,
        cert: shown.certificatePem + authority.caPem,
        ca: authority.caPem,
        minVersion: "TLSv1.3",
        requestCert: true,
        rejectUnauthorized: false,
      },
      (request, response) => {
        this.#answer(request).then(
          (body) => this.#send(response, 200, body),
          (error: unknown) => {
            const known = error instanceof PlatformError ? error : new PlatformError("internal", String(error));
            response.setHeader(errorCodeHeader, known.code);
            this.#send(response, known.status, known.toBody());
          },
        );
      },
    );
  }

  /** `name`: in the certificate that it shows; `shows`: whose authority signed that. */
  static async start(
    options: { readonly name?: string; readonly shows?: TestAuthority; readonly port?: number } = {},
  ): Promise<FakeControlPlane> {
    const authority = await TestAuthority.create();
    const signer = options.shows ?? authority;
    const fake = new FakeControlPlane(authority, await signer.identity(options.name ?? "roost://control-plane"));
    await fake.listen(options.port ?? 0);
    return fake;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `https://127.0.0.1:${this.port}`;
  }

  get token(): string {
    return `${this.secret}.${this.authority.fingerprint}`;
  }

  async listen(port: number): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(port, "127.0.0.1", resolve));
  }

  /** Away, as a process that was killed. */
  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #send(response: ServerResponse, status: number, body: unknown): void {
    if (this.losesAnswers > 0) {
      this.losesAnswers -= 1;
      response.destroy();
      return;
    }
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  }

  async #answer(request: IncomingMessage): Promise<unknown> {
    const path = request.url ?? "";
    const socket = request.socket as TLSSocket;
    const name = socket.authorized ? certificateName(socket.getPeerCertificate().subjectaltname) : undefined;
    this.asked.push({ path, name });
    let text = "";
    for await (const chunk of request) text += String(chunk);
    const body = JSON.parse(text) as unknown;
    if (this.refuses !== undefined) throw this.refuses;
    if (path === "/hosts/register") {
      const { token, csr_pem: csrPem } = body as RegisterHostBody;
      if (token !== this.token) throw new PlatformError("registration_token_invalid", "not this one");
      this.registrations.push(body as RegisterHostBody);
      return this.#certificate(csrPem);
    }
    if (name !== `roost://host/${this.hostId}`) throw new PlatformError("host_certificate_refused", "whose is it?");
    if (path === "/hosts/certificate") return this.#certificate((body as { csr_pem: string }).csr_pem);
    this.heartbeats.push(body as HeartbeatBody);
    return { wanted: "ready", lease_sec: 30, heartbeat_sec: 0.02, time: new Date().toISOString(), ...this.answer };
  }

  async #certificate(csrPem: string) {
    const certificate = await this.authority.answer(csrPem, `roost://host/${this.hostId}`, { fromMs: -1_000, toMs: this.lifeMs });
    return { host_id: this.hostId, certificate_pem: certificate, ca_pem: this.authority.caPem };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#server.listening) await this.stop();
  }
}
