// Time series on one shared axis: unit at the axis, last value at the end, bands, marks, one hover for all.

import uPlot from "/page/uplot/uPlot.esm.js";
import {dateOf, el, momentOf} from "/page/dom.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");

/**
 * A column of charts that share time and hover. Each chart: {title, unit, show(value), lines: [{key, name, colour,
 * band: [low key, high key]}], low}. `href` is the API call behind them, `least` the seconds that the axis of
 * time covers at least. `update(data, marks)`: data.at and one array a key; marks: [{at, text}], numbered in their
 * order; one with a `name` bears that, on a full line.
 */
export class Charts {
  constructor(place, charts, {href, height = 112, least = 3600}) {
    this.data = {at: []};
    this.marks = [];
    this.height = height;
    this.href = href;
    this.least = least;
    this.parts = charts.map((chart) => this.#make(place, chart));
    new ResizeObserver(() => this.#fit()).observe(place);
    dark.addEventListener("change", () => this.#rebuild());
  }

  update(data, marks) {
    this.data = data;
    this.marks = marks;
    for (const part of this.parts) {
      part.plot.setData(part.keys.map((key) => data[key] ?? []));
      this.#label(part, null);
    }
  }

  #make(place, chart) {
    const value = el("a", {class: "value figure", href: this.href, tabindex: "-1", target: "_blank"});
    const box = el("div", {class: "plot", role: "img", "aria-label": `${chart.title}, ${chart.unit}, over time`});
    place.append(el("figure", {class: "chart"},
      el("figcaption", {class: "head"},
        el("span", {}, el("strong", {}, chart.title), el("span", {class: "quiet"}, ` ${chart.unit}`)), value), box));
    const keys = ["at"];
    for (const line of chart.lines) keys.push(line.key, ...(line.band ?? []));
    const part = {chart, value, box, keys, plot: null};
    this.#plot(part);
    return part;
  }

  #plot(part) {
    const {chart, box} = part;
    const series = [{}], bands = [];
    for (const line of chart.lines) {
      const stroke = colour(line.colour);
      series.push({stroke, width: 1.5, dash: line.dash, spanGaps: true, points: {show: true, size: 5, fill: stroke, filter: lastOf}});
      if (line.band) {
        series.push({stroke: "transparent", points: {show: false}}, {stroke: "transparent", points: {show: false}});
        bands.push({series: [series.length - 1, series.length - 2], fill: colour("band")});
      }
    }
    const quiet = colour("quiet"), grid = colour("line");
    const font = "12px system-ui, sans-serif";
    const axis = {stroke: quiet, font, grid: {stroke: grid, width: 1}, ticks: {show: false}};
    part.plot?.destroy();
    part.plot = new uPlot({
      width: Math.max(200, box.clientWidth), height: this.height, series, bands,
      padding: [8, 24, 4, 0],
      legend: {show: false},
      cursor: {sync: {key: "time", setSeries: false}, y: false, drag: {x: false, y: false}, points: {show: false}},
      scales: {x: {time: true, range: (_, low, high) => low === null ? [0, this.least] : [low, Math.max(high, low + this.least)]}, y: {range: (_, low, high) => bounds(chart, low, high)}},
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      axes: [
        {...axis, size: 24, space: 72, values: (_, splits) => splits.map(tick)},
        {...axis, size: 72, space: 28, values: (_, splits) => splits.map((split) => chart.show(split))},
      ],
      hooks: {
        drawClear: [(plot) => this.#drawMarks(plot)],
        setCursor: [(plot) => this.#label(part, plot.cursor.idx)],
      },
    }, part.keys.map((key) => this.data[key] ?? []), box);
  }

  #label(part, idx) {
    const {chart, value} = part, hovered = idx !== null && idx !== undefined;
    const place = hovered ? idx : this.data.at.length - 1;
    if (place < 0) return value.replaceChildren("–");
    const words = chart.lines.map((line) => {
      const values = this.data[line.key] ?? [];
      const found = hovered ? values[place] : values.findLast((each) => each !== null && each !== undefined);
      const mark = el("i", {class: `mark ${line.colour}`, "aria-hidden": "true"});
      return el("span", {}, chart.lines.length > 1 ? mark : null,
        `${line.name ? `${line.name} ` : ""}${found === null || found === undefined ? "–" : chart.show(found)}`);
    });
    const when = hovered ? [el("span", {class: "quiet"}, momentOf(this.data.at[place]))] : [];
    value.replaceChildren(...when, ...words);
  }

  #drawMarks(plot) {
    const {ctx, bbox} = plot, ratio = devicePixelRatio, end = bbox.left + bbox.width;
    ctx.save();
    ctx.strokeStyle = colour("quiet");
    ctx.fillStyle = colour("quiet");
    ctx.lineWidth = ratio;
    ctx.font = `600 ${10 * ratio}px system-ui, sans-serif`;
    let last = -Infinity, row = 0;
    this.marks.forEach((mark, place) => {
      const x = Math.round(plot.valToPos(mark.at, "x", true));
      if (x < bbox.left || x > end) return;
      ctx.setLineDash(mark.name ? [] : [2 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.textAlign = x > end - (mark.name ? 40 : 16) * ratio ? "right" : "left";
      if (mark.name) return ctx.fillText(mark.name, x + (ctx.textAlign === "left" ? 3 : -3) * ratio, bbox.top + bbox.height - 3 * ratio);
      row = x - last < 16 * ratio ? row + 1 : 0; // neighbours stand below one another
      last = x;
      ctx.fillText(String(place + 1), x + (ctx.textAlign === "left" ? 3 : -3) * ratio, bbox.top + (9 + 11 * row) * ratio);
    });
    ctx.restore();
  }

  #fit() {
    for (const part of this.parts) {
      const width = part.box.clientWidth;
      if (width && width !== part.plot.width) part.plot.setSize({width, height: this.height});
    }
  }

  #rebuild() { this.parts.forEach((part) => this.#plot(part)); }
}

/** The line ends in a dot, which is also all that a single value is. */
function lastOf(plot, series) {
  const values = plot.data[series];
  for (let place = values.length - 1; place >= 0; place--) if (values[place] !== null && values[place] !== undefined) return [place];
  return null;
}

function bounds(chart, low, high) {
  if (low === null || high === null) return [0, chart.least ?? 1];
  const from = chart.low === undefined ? low : Math.min(chart.low, low);
  const to = Math.max(high, from + (chart.least ?? 1));
  return [from, to + 0.08 * (to - from)];
}

function tick(seconds, place, all) {
  const step = all.length > 1 ? all[1] - all[0] : 86400;
  return step >= 86400 ? dateOf(seconds).replace(/^(\d+) (\w{3}).*$/, "$1 $2") : momentOf(seconds).split(", ")[1];
}
