// How the outcomes of forecasts fell: PIT histogram, coverages, verdicts.

import { percent } from "./format.js";
import { byId, facts, make } from "./page.js";
import { skillText, WORSE } from "./table.js";

// Draws a summary of scores, of one step; the histogram is flat where the forecasts are right.
export function drawCalibration(found) {
  const most = Math.max(2 / found.pit.length, ...found.pit, ...found.raw_pit);
  const even = 1 / found.pit.length;
  byId("pit").replaceChildren(...found.pit.map((share, i) => {
    const bin = make("div", { title: `${percent(share)} of closes; the model alone ${percent(found.raw_pit[i])}` });
    for (const [name, height] of [["calibrated", share], ["raw", found.raw_pit[i]]]) {
      const bar = make("i", { className: name });
      bar.style.height = `${(100 * height) / most}%`;
      bin.append(bar);
    }
    return bin;
  }));
  byId("pit").style.setProperty("--even", `${(100 * even) / most}%`);
  byId("pit-note").textContent = `How often closes came in each tenth of the forecast, low to high. ${percent(even, 0)} each (dashed) is right.`;
  byId("coverages").replaceChildren(...Object.keys(found.coverage).map((name) => make("tr", {},
    ...[`${name} %`, percent(found.coverage[name]), percent(found.raw_coverage[name])].map((textContent) => make("td", { textContent })))));
  byId("skills").replaceChildren(...facts([
    ["Quantiles", skillText(found, true), found.against_baseline === WORSE ? "bad" : ""],
    ["Median, against no change", percent(found.persistence_skill)],
  ]));
}
