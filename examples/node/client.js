// One turn through the public API, without Segue's SDK:
//
//   npm install && node client.js 127.0.0.1:7411 "Hello"
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [target, question] = process.argv.slice(2);
const files = ["segue/v1/session.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"];
const { segue, google } = grpc.loadPackageDefinition(
  protoLoader.loadSync(files, {
    includeDirs: [fileURLToPath(new URL("../../proto", import.meta.url))],
    keepCase: true,
    enums: String,
    longs: Number,
  }),
);
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
  for (const { type_url, value } of octets ? google.rpc.Status.deserialize(octets).details : []) {
    const name = type_url.split(".").at(-1);
    details[name] = google.rpc[name]?.deserialize(value);
  }
  const { seconds = 0, nanos = 0 } = details.RetryInfo?.retry_delay ?? {};
  const hint = details.RetryInfo ? ` (try again in ${seconds + nanos / 1e9} s)` : "";
  console.error(`${details.ErrorInfo?.reason ?? "no reason"}: ${error.details}${hint}`);
  process.exitCode = 1;
});
