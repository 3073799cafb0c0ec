// Lines over time, each in a panel of its own, by Lightweight Charts.

import { css, look } from "./chart.js";
import { percent } from "./format.js";

export class SharesChart {
  // lines = [{colour: name of a variable, level: where a dashed line stands, or none, text: of a value}]
  constructor(element, lines) {
    const lib = window.LightweightCharts;
    this.lines = lines;
    this.chart = lib.createChart(element, { autoSize: true, layout: { attributionLogo: false }, handleScale: false });
    this.series = lines.map(({ level, text = (share) => percent(share) }, pane) => {
      const series = this.chart.addSeries(lib.LineSeries, { lineWidth: 2, priceLineVisible: false, lastValueVisible: false, priceFormat: { type: "custom", minMove: 0.001, formatter: text } }, pane);
      const line = level === undefined ? null : series.createPriceLine({ price: level, lineWidth: 1, lineStyle: 2 });
      return { series, line };
    });
    this.paint();
  }

  paint() {
    this.chart.applyOptions(look());
    this.chart.timeScale().applyOptions({ rightOffset: 0 });
    this.series.forEach(({ series, line }, i) => {
      series.applyOptions({ color: css(this.lines[i].colour) });
      line?.applyOptions({ color: css("--muted") });
    });
  }

  // Shows points, {time, value}, of each line.
  show(points, interval) {
    this.chart.timeScale().applyOptions({ timeVisible: /[mh]$/.test(interval) });
    points.forEach((some, i) => this.series[i].series.setData(some));
    this.chart.timeScale().fitContent();
  }
}
