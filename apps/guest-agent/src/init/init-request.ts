import { envNameLengthMax, envsEntriesMax, envValueLengthMax, guestInitSchema, type GuestInit } from "@roost/contract";

import { isBase64 } from "../base64-text.ts";
import { HttpError } from "../http/http-error.ts";

/**
 * What `/init` was sent, or the error that says what is wrong with it.
 *
 * A body as hosts write it is recognized here by comparing characters; everything else goes through the schema, with the same
 * result. Why: in a VM that was just restored each engine function that is used for the first time must be translated by the
 * emulator, and the schema, with the compiler of its regular expressions, is half of the time an /init takes then.
 */
export function parseInit(body: unknown): GuestInit | HttpError {
  if (isPlainInit(body)) return body;
  const parsed = guestInitSchema.safeParse(body);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  return new HttpError(400, `${issue?.path.join(".") || "body"}: ${issue?.message ?? "not valid"}`);
}

/** Whether a body surely is a valid `GuestInit` of which nothing must be left out. False says nothing. */
export function isPlainInit(body: unknown): body is GuestInit {
  if (typeof body !== "object" || body === null || Array.isArray(body)) return false;
  for (const name of Object.keys(body)) {
    const value: unknown = (body as Record<string, unknown>)[name];
    if (name === "envVars" ? !areEnvs(value) : typeof value !== "string" || !isField(name, value)) return false;
  }
  return true;
}

function isField(name: string, value: string): boolean {
  switch (name) {
    case "accessToken":
      return value.length >= 1 && value.length <= 512;
    case "timestamp":
      return isTimestamp(value);
    case "defaultUser":
      return value.length <= 32;
    case "defaultWorkdir":
      return value.length <= 4095;
    case "sandboxId":
      return value.length <= 64;
    case "templateId":
      return value.length <= 128;
    case "hostname":
      return value.length >= 1 && value.length <= 63 && consistsOf(value, isHostnameCharacter);
    case "machineId":
      return value.length === 32 && consistsOf(value, isLowerHexDigit);
    case "entropy":
      return value.length <= 4096 && value.length % 4 === 0 && isBase64(value, "base64");
    default:
      return false;
  }
}

function areEnvs(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const names = Object.keys(value);
  if (names.length > envsEntriesMax) return false;
  for (const name of names) {
    const text: unknown = (value as Record<string, unknown>)[name];
    if (name === "" || name === "__proto__" || name.length > envNameLengthMax || name.includes("=") || name.includes("\0")) return false;
    if (typeof text !== "string" || text.length > envValueLengthMax || text.includes("\0")) return false;
  }
  return true;
}

/** As `Date.prototype.toISOString` writes an instant: `2026-11-23T06:20:00.000Z`. */
function isTimestamp(value: string): boolean {
  const pattern = "dddd-dd-ddTdd:dd:dd.dddZ";
  if (value.length !== pattern.length) return false;
  for (let index = 0; index < pattern.length; index += 1) {
    const expected = pattern.charCodeAt(index);
    if (expected === 0x64 ? !isDigit(value.charCodeAt(index)) : value.charCodeAt(index) !== expected) return false;
  }
  // Days that do not exist are for the schema to judge.
  const number = (at: number) => (value.charCodeAt(at) - 48) * 10 + value.charCodeAt(at + 1) - 48;
  const [month, day] = [number(5), number(8)];
  return (
    month >= 1 && month <= 12 && day >= 1 && day <= 28 + (month === 2 ? 0 : 2) && number(11) < 24 && number(14) < 60 && number(17) < 60
  );
}

function consistsOf(value: string, isAllowed: (code: number) => boolean): boolean {
  for (let index = 0; index < value.length; index += 1) if (!isAllowed(value.charCodeAt(index))) return false;
  return true;
}

const isDigit = (code: number) => code >= 0x30 && code <= 0x39;
const isLowerLetter = (code: number) => code >= 0x61 && code <= 0x7a;
const isLowerHexDigit = (code: number) => isDigit(code) || (code >= 0x61 && code <= 0x66);
const isHostnameCharacter = (code: number) => isDigit(code) || isLowerLetter(code) || code === 0x2d;
