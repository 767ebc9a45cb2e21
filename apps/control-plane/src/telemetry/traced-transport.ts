import type { Transport } from "@connectrpc/connect";
import { endSpan, inSpan, isTracing, openSpan, traceHeaders, withinSpan, type OpenSpan } from "@roost/kit/tracing";

/** A transport whose calls are spans, and tell the other side of which trace they are part. The same one when nobody collects traces. */
export function tracedTransport(transport: Transport, peer: "host-agent" | "guest-agent"): Transport {
  if (!isTracing()) return transport;
  const optionsFor = (method: { readonly name: string; readonly parent: { readonly typeName: string } }) =>
    ({
      kind: "client",
      attributes: { "rpc.system": "connect_rpc", "rpc.service": method.parent.typeName, "rpc.method": method.name, "roost.peer": peer },
    }) as const;
  return {
    unary: async (method, signal, timeoutMs, header, input, contextValues) =>
      inSpan(`${method.parent.typeName}/${method.name}`, optionsFor(method), async () =>
        transport.unary(method, signal, timeoutMs, withTrace(header), input, contextValues),
      ),
    stream: async (method, signal, timeoutMs, header, input, contextValues) => {
      const open = openSpan(`${method.parent.typeName}/${method.name}`, optionsFor(method));
      try {
        const answer = await withinSpan(open, () =>
          transport.stream(method, signal, timeoutMs, withTrace(header, open), input, contextValues),
        );
        return { ...answer, message: untilEnd(answer.message, open) };
      } catch (error) {
        endSpan(open, error);
        throw error;
      }
    },
  };
}

function withTrace(header: Parameters<Transport["unary"]>[3], open?: OpenSpan): Headers {
  const headers = new Headers(header);
  for (const [name, value] of Object.entries(traceHeaders(open))) headers.set(name, value);
  return headers;
}

/** The span of a stream ends with it, however that is. */
async function* untilEnd<Message>(messages: AsyncIterable<Message>, open: OpenSpan | undefined): AsyncGenerator<Message, void, void> {
  try {
    yield* messages;
    endSpan(open);
  } catch (error) {
    endSpan(open, error);
    throw error;
  } finally {
    open?.span.end(); // who stopped reading; a second end is nothing
  }
}
