// Prints the forecasts of one symbol as they come, by KafkaJS: npm ci; node consumer.mjs AAPL
// KafkaJS brings no zstd; Node has it from 22.15 on.
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import kafkajs from "kafkajs";

const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = kafkajs;
const { BOOTSTRAP = "127.0.0.1:9092", FORECASTS = "market.forecasts.v1", GROUP = "example-kafkajs" } =
  process.env;
const REMEMBERED = 10_000;
const symbol = process.argv[2];

CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => zstdCompressSync(encoder.buffer),
  decompress: async (buffer) => zstdDecompressSync(buffer),
});

const seen = new Set();
const kafka = new Kafka({ brokers: BOOTSTRAP.split(","), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId: GROUP });
await consumer.connect();
await consumer.subscribe({ topic: FORECASTS, fromBeginning: true });
await consumer.run({
  // an offset is committed after this has ended, so that nothing is lost
  eachMessage: async ({ message }) => {
    const forecast = JSON.parse(message.value.toString());
    if (forecast.symbol !== symbol || seen.has(forecast.id)) return;
    seen.add(forecast.id);
    if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
    const [ahead] = forecast.horizons;
    const { "0.05": low, "0.95": high } = ahead.quantiles;
    console.log(
      `${forecast.symbol} ${forecast.interval} after ${forecast.as_of_ms}: ` +
        `median ${ahead.predicted_close}, 90% ${low} to ${high}`,
    );
  },
});
