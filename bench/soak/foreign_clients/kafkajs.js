// Sends a plan with KafkaJS; see __init__.py.
const lz4 = require("lz4-napi");
const readline = require("node:readline");
const snappy = require("kafkajs-snappy");
const zstd = require("@bokuweb/zstd-wasm");
const { CompressionCodecs, CompressionTypes, Kafka, Partitioners, logLevel } = require("kafkajs");

const AT_ONCE = 500; // records
CompressionCodecs[CompressionTypes.Snappy] = snappy;
CompressionCodecs[CompressionTypes.LZ4] = () => ({ compress: (encoder) => lz4.compressFrame(encoder.buffer) });
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer, 3)),
});
const CODECS = { gzip: "GZIP", snappy: "Snappy", lz4: "LZ4", zstd: "ZSTD" };

let acknowledged = 0;

async function send(through, lines, codec) {
  const topics = new Map();
  for (const { topic, key, value } of lines) {
    topics.set(topic, [...(topics.get(topic) ?? []), { key, value }]);
  }
  const topicMessages = [...topics].map(([topic, messages]) => ({ topic, messages }));
  await through.sendBatch({ topicMessages, acks: -1, compression: CompressionTypes[CODECS[codec]] });
  acknowledged += lines.length;
}

async function sendAll(producer, transactional, lines, codec) {
  const { transaction, commit } = lines[0];
  if (transaction === null) {
    await send(producer, lines, codec);
    return;
  }
  const open = await transactional.transaction();
  await send(open, lines, codec);
  await (commit ? open.commit() : open.abort());
}

async function main(servers, codec, transactionalId) {
  await zstd.init();
  const kafka = new Kafka({ brokers: servers.split(","), logLevel: logLevel.ERROR });
  const createPartitioner = Partitioners.DefaultPartitioner;
  const plain = kafka.producer({ createPartitioner, idempotent: true });
  const transactional = kafka.producer({ createPartitioner, transactionalId, maxInFlightRequests: 1, idempotent: true });
  await plain.connect();
  await transactional.connect();
  let waiting = [];
  for await (const text of readline.createInterface({ input: process.stdin })) {
    const line = JSON.parse(text);
    const ends = waiting.length > 0 && waiting[0].transaction !== line.transaction;
    if (ends || (line.transaction === null && waiting.length === AT_ONCE)) {
      await sendAll(plain, transactional, waiting, codec);
      waiting = [];
    }
    waiting.push(line);
  }
  if (waiting.length > 0) {
    await sendAll(plain, transactional, waiting, codec);
  }
  await plain.disconnect();
  await transactional.disconnect();
  console.log(acknowledged);
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
