import { channelConfigSchemas, type ChannelKind } from "@roost/contract";
import { Webhook } from "standardwebhooks";

import { signingSecrets, type ChannelSecrets } from "./channel-secrets.ts";
import type { OutgoingRequest } from "./send.ts";

/** Characters of a message to a chat; Discord takes 2000, the others more */
const chatTextLengthMax = 1_500;
const telegramOrigin = "https://api.telegram.org";

/** Something to tell a channel. */
export interface ChannelMessage {
  /** What the receiver knows it by: the same at each try */
  readonly id: string;
  /** Kind of an event, or `channel.test` */
  readonly type: string;
  /** When it happened */
  readonly time: Date;
  /** For people, in a line or a few */
  readonly text: string;
  /** For programs */
  readonly data: unknown;
}

export interface ChannelTarget {
  readonly kind: ChannelKind;
  readonly secrets: ChannelSecrets;
  /** In place of Telegram's, for tests */
  readonly telegramOrigin?: string | undefined;
}

/** The request that tells a channel a message. The same message makes the same body; only the signature has the time `now`. */
export function requestOf(target: ChannelTarget, message: ChannelMessage, now: Date): OutgoingRequest {
  const { kind, secrets } = target;
  const text = `${message.type}: ${message.text}`.slice(0, chatTextLengthMax);
  switch (kind) {
    case "webhook":
      return webhookRequest(new URL(configOf(kind, secrets).url), secrets, message, now);
    case "slack":
      // the three characters that Slack reads: nobody is mentioned, nothing linked
      return post(configOf(kind, secrets).url, { text: text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;") });
    case "discord":
      return post(configOf(kind, secrets).url, { content: text, allowed_mentions: { parse: [] } });
    case "googlechat":
      return post(configOf(kind, secrets).url, { text: text.replaceAll("<", "\u2039").replaceAll(">", "\u203A") }); // <users/all>
    case "teams":
      return post(configOf(kind, secrets).url, teamsCard(text));
    case "telegram": {
      const { bot_token: token, chat_id: chat } = configOf(kind, secrets);
      return post(`${target.telegramOrigin ?? telegramOrigin}/bot${token}/sendMessage`, {
        chat_id: chat,
        text,
        link_preview_options: { is_disabled: true },
      });
    }
    case "matrix":
      return matrixRequest(configOf(kind, secrets), message.id, text);
  }
}

function configOf<Kind extends ChannelKind>(kind: Kind, { config }: ChannelSecrets) {
  return channelConfigSchemas[kind].parse(config) as ReturnType<(typeof channelConfigSchemas)[Kind]["parse"]>;
}

function post(url: string, body: unknown): OutgoingRequest {
  return { method: "POST", url: new URL(url), headers: jsonHeaders, body: JSON.stringify(body) };
}

const jsonHeaders = { "content-type": "application/json", accept: "application/json", "user-agent": "Roost" };

/** Standard Webhooks: an HMAC over `<id>.<time>.<body>` with each secret that is valid now. */
function webhookRequest(url: URL, secrets: ChannelSecrets, { id, type, time, data }: ChannelMessage, now: Date): OutgoingRequest {
  const body = JSON.stringify({ type, timestamp: time.toISOString(), data });
  const signatures = signingSecrets(secrets, now).map((secret) => new Webhook(secret).sign(id, now, body));
  const headers = {
    ...jsonHeaders,
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(now.getTime() / 1000)),
    "webhook-signature": signatures.join(" "),
  };
  return { method: "POST", url, headers, body };
}

function teamsCard(text: string) {
  const content = {
    type: "AdaptiveCard",
    version: "1.4",
    body: [{ type: "TextBlock", text, wrap: true }],
  };
  return { type: "message", attachments: [{ contentType: "application/vnd.microsoft.card.adaptive", content }] };
}

/** Matrix knows a message by its transaction id, too: a second try of one that was taken changes nothing. */
function matrixRequest(
  config: { readonly homeserver_url: string; readonly access_token: string; readonly room_id: string },
  id: string,
  text: string,
): OutgoingRequest {
  const url = new URL(config.homeserver_url);
  const base = url.pathname.replace(/\/+$/, "");
  url.pathname = `${base}/_matrix/client/v3/rooms/${encodeURIComponent(config.room_id)}/send/m.room.message/${id}`;
  const body = JSON.stringify({ msgtype: "m.notice", body: text, "m.mentions": {} });
  return { method: "PUT", url, headers: { ...jsonHeaders, authorization: `Bearer ${config.access_token}` }, body };
}

/** Where a channel leads, as far as it may be shown, and as a URL to check. */
export function destinationOf(target: ChannelTarget): URL {
  const url = requestOf(target, { id: "0", type: "", time: new Date(0), text: "", data: null }, new Date(0)).url;
  return new URL(url.origin);
}
