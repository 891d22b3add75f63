// One turn through the public API, without Segue's SDK:
//
//   npm install && node client.js 127.0.0.1:7411 "Hello"
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const [target, question] = process.argv.slice(2);
const { segue } = grpc.loadPackageDefinition(
  protoLoader.loadSync("segue/v1/session.proto", {
    includeDirs: [fileURLToPath(new URL("../../proto", import.meta.url))],
    keepCase: true,
    enums: String,
    longs: Number,
  }),
);
// The messages of google/rpc/error_details.proto that Segue sends.
const rpc = protobuf.parse(`syntax = "proto3";
  message ErrorInfo { string reason = 1; string domain = 2; }
  message RetryInfo { Duration retry_delay = 1; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }`).root;
const sessions = new segue.v1.Sessions(target, grpc.credentials.createInsecure());

const call = sessions.Generate({
  chat: { messages: [{ role: "MESSAGE_ROLE_USER", content: question }] },
  stop: { max_tokens: 100 },
});
call.on("data", ({ delta, end }) => {
  if (delta) process.stdout.write(delta.text);
  if (end) console.log(`\n${end.finish_reason}, ${end.usage.completion_tokens} tokens`);
});
call.on("error", (error) => {
  const details = {};
  const [octets] = error.metadata.get("grpc-status-details-bin");
  for (const { type_url, value } of octets ? segue.v1.Status.deserialize(octets).details : []) {
    details[type_url.split(".").at(-1)] = rpc.lookupType(type_url.split(".").at(-1)).decode(value);
  }
  const { seconds = 0, nanos = 0 } = details.RetryInfo?.retryDelay ?? {};
  const hint = details.RetryInfo ? ` (try again in ${Number(seconds) + nanos / 1e9} s)` : "";
  console.error(`${details.ErrorInfo?.reason ?? "no reason"}: ${error.details}${hint}`);
  process.exitCode = 1;
});
