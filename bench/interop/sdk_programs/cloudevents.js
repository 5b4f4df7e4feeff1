// Sends CloudEvents with JavaScript's SDK and KafkaJS; see __init__.py.
const readline = require("node:readline");
const { CloudEvent, Kafka: Binding } = require("cloudevents");
const { Kafka, Partitioners, logLevel } = require("kafkajs");

const KINDS = { object: (data) => data, bytes: (data) => Buffer.from(JSON.stringify(data)), text: JSON.stringify };

function messageOf({ mode, id, source, type, datacontenttype, extensions, kind, data }) {
  const attributes = { id, source, type, datacontenttype: datacontenttype ?? undefined, ...extensions };
  const event = new CloudEvent({ ...attributes, data: KINDS[kind](data) });
  const { key, value, headers } = Binding[mode](event);
  // In binary mode the SDK leaves objects, numbers and undefined to the client, and KafkaJS takes only text and bytes.
  const named = Object.entries(headers).filter(([, it]) => it !== undefined);
  return {
    key,
    value: typeof value === "string" || Buffer.isBuffer(value) ? value : JSON.stringify(value),
    headers: Object.fromEntries(named.map(([name, it]) => [name, String(it)])),
  };
}

async function main(servers) {
  const kafka = new Kafka({ brokers: servers.split(","), logLevel: logLevel.ERROR });
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  let acknowledged = 0;
  for await (const text of readline.createInterface({ input: process.stdin })) {
    const line = JSON.parse(text);
    await producer.send({ topic: line.topic, acks: -1, messages: [messageOf(line)] });
    acknowledged += 1;
  }
  await producer.disconnect();
  console.log(acknowledged);
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
