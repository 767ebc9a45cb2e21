import { second } from "@roost/kit";
import { createTransport, type Transporter } from "nodemailer";

import type { Mailer, OutgoingMail } from "./mailer.ts";

/** Time for each part of a conversation with the mail server in `ms` */
const connectTimeoutMs = 10 * second;
const silenceTimeoutMs = 20 * second;
/** Connections kept to the mail server */
const connectionsMax = 2;

/** By a mail server: `smtp://user:password@host:587` (STARTTLS where it is offered) or `smtps://…` (TLS from the start). */
export class SmtpMailer implements Mailer {
  readonly isReal = true;
  readonly #from: string;
  readonly #transport: Transporter;

  constructor(url: string, from: string) {
    this.#from = from;
    this.#transport = createTransport({
      url,
      pool: true,
      maxConnections: connectionsMax,
      connectionTimeout: connectTimeoutMs,
      greetingTimeout: connectTimeoutMs,
      socketTimeout: silenceTimeoutMs,
      // Neither files nor URLs are ever part of a mail, whatever is in one
      disableFileAccess: true,
      disableUrlAccess: true,
    });
  }

  async send({ id, recipient, subject, text, html }: OutgoingMail): Promise<void> {
    await this.#transport.sendMail({
      messageId: `<${id}@roost>`,
      from: this.#from,
      to: { name: "", address: recipient },
      subject,
      text,
      html,
      // No out-of-office replies, please
      headers: { "Auto-Submitted": "auto-generated" },
    });
  }

  close(): void {
    this.#transport.close();
  }
}
