// Uses the API by the types that openapi-typescript makes of its document.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

function expect(held: boolean, what: string): void {
  if (!held) throw new Error(`expected ${what}`);
}

const [url, historyText] = process.argv.slice(2);
const history: components["schemas"]["HistoryCandle"][] = JSON.parse(historyText);
const client = createClient<paths>({ baseUrl: url });

const newest = await client.GET("/v1/forecasts", { params: { query: { symbols: ["AAPL", "IBM"] } } });
expect(newest.data?.forecasts[0].symbol === "AAPL", "the forecast of AAPL");

const made = await client.POST("/v1/forecasts", {
  body: { histories: [{ candles: history, interval: "1d" }], horizons: [1, 3] },
});
expect(made.data?.forecasts[0].horizons.length === 2, "two horizons");
expect((made.data?.forecasts[0].horizons[0].quantiles["0.5"] ?? 0) > 0, "a median");

const missing = await client.GET("/v1/forecasts/{symbol}", { params: { path: { symbol: "NONE" } } });
expect(missing.error?.errors?.[0].field === "symbol", "a problem that names the symbol");
console.log("TypeScript client: 3 calls answered as typed");
