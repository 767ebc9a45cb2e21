import { ConnectError, type Code } from "@connectrpc/connect";
import { errorCodeHeader } from "@roost/contract";
import { expect } from "vitest";

/** How an RPC failed: its catalogue code and what users are told. Fails the test when it did not. */
export async function failureOf(promise: Promise<unknown>): Promise<{ code: string | null; message: string; connectCode: Code }> {
  const error = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(error, "the call fails").toBeInstanceOf(ConnectError);
  const failure = error as ConnectError;
  return { code: failure.metadata.get(errorCodeHeader), message: failure.rawMessage, connectCode: failure.code };
}
