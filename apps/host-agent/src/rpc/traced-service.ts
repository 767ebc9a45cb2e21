import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { inSpan, isTracing } from "@roost/kit/tracing";

type Service = ServiceImpl<typeof HostAgentService>;
type Handle = (request: never, context: HandlerContext) => unknown;

/** The service, each call of which is a span of the caller's trace, but for streams, which last for ever. The same one when nobody collects traces. */
export function tracedService(service: Service): Service {
  if (!isTracing()) return service;
  const handlers = Object.entries(HostAgentService.method).map(([name, method]) => {
    const handle = service[name as keyof Service] as Handle;
    if (method.methodKind !== "unary") return [name, handle];
    const attributes = { "rpc.system": "connect_rpc", "rpc.service": HostAgentService.typeName, "rpc.method": method.name };
    const traced: Handle = async (request, context) =>
      inSpan(
        `${HostAgentService.typeName}/${method.name}`,
        { kind: "server", attributes, from: (header) => context.requestHeader.get(header) ?? undefined },
        async () => handle(request, context),
      );
    return [name, traced];
  });
  return Object.fromEntries(handlers) as Service;
}
