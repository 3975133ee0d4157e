// The charts: each brand's negative share by both views, posts an hour; the seam and the story's events on all.

import {byId, count, momentOf, say} from "/page/dom.js";
import {Charts} from "/page/chart.js";
import {marks} from "/page/parts.js";
import {KINDS, brandName} from "/page/words.js";

const ENOUGH = 60; // opinions that a share is taken of
const HOUR = 3600;
const VERDICTS = ["confirmed", "retracted"];
const BEGINS = {crisis: "the mood turns", slang: "new words begin", "bad release": "a bad release"};
let charts = null, daysOf = {};

/** The story's events, each a numbered line on the charts and a line of words below them; and the seam. */
function events(told, series) {
  const found = [
    ...told.scenes.filter((scene) => scene.marks && !scene.outcome).map((scene) => ({at: scene.at, text: BEGINS[scene.marks] ?? scene.marks})),
    ...told.alarms.filter((alarm) => alarm.kind !== "command").map((alarm) => ({at: alarm.at, text: `${(KINDS[alarm.kind] ?? alarm.kind).toLowerCase()}${alarm.brand ? ` of ${alarm.brand}` : ""}${VERDICTS.includes(alarm.kind) ? "" : ", alarm"}`})),
    ...told.ledger.map((release) => ({at: release.at, text: release.action === "promote" ? `version ${release.version} released` : `${release.action === "withdraw" ? "withdrawn:" : "rolled back to"} version ${release.version}`})),
  ].filter((mark) => series.at.length && mark.at >= series.at[0] - HOUR).sort((a, b) => a.at - b.at);
  if (series.seam) found.push({at: series.seam, name: "seam", text: "the seam: hours before it are batch's, minutes after it the stream's"});
  return found;
}

/** Per cent of the last ENOUGH opinions or more: of an hour's five every share would be a spike. */
function lately({opinions, negative}) {
  let first = 0, all = 0, counted = 0;
  return opinions.map((number, place) => {
    all += number;
    counted += negative[place];
    while (all - opinions[first] >= ENOUGH) {
      all -= opinions[first];
      counted -= negative[first++];
    }
    return all ? 100 * counted / all : null;
  });
}

/** Posts of the hour up to each point. */
function hourly({at, view, posts}) {
  let first = 0, sum = 0;
  return posts.map((number, place) => {
    if (view[place] === "batch") {
      first = place + 1;
      sum = 0;
      return number;
    }
    sum += number;
    while (at[place] - at[first] >= HOUR) sum -= posts[first++];
    return at[place] - at[first] >= HOUR - 600 || view[first - 1] !== "batch" ? sum : null;
  });
}

/** A day's share at each of its hours. */
function daily(at, days, key) {
  return at.map((seconds) => {
    const day = days?.find((each) => each.at <= seconds && seconds < each.until);
    return (day?.[key] ?? null) === null ? null : 100 * day[key];
  });
}

/** Each brand's published days; drawn with what is painted next. */
export function days(given) { daysOf = given; }

export function paint(told, series) {
  const per = (value) => `${value.toFixed(0)} %`;
  charts ??= new Charts(byId("charts"), [
    ...Object.keys(series.tracks).map((brand) => ({title: brandName(brand), unit: "% negative", show: per, low: 0, least: 60, lines: [
      {key: `${brand} corrected`, name: "corrected", colour: "accent", band: [`${brand} low`, `${brand} high`]},
      {key: `${brand} batch`, name: "batch", colour: "ink"},
      {key: `${brand} speed`, name: "stream", colour: "maybe", dash: [2, 3]}]})),
    {title: "Posts", unit: "an hour, on any brand", show: count, low: 0, least: 10, lines: [
      {key: "posts batch", name: "batch", colour: "ink"}, {key: "posts speed", name: "stream", colour: "maybe", dash: [2, 3]}]},
  ], {href: "/v1/watch"});
  // The seam is shown when no minute stands after it, too: a point without values ends the axis there.
  const open = series.seam > (series.at.at(-1) ?? Infinity), end = open ? [null] : [], at = open ? [...series.at, series.seam] : series.at;
  const chosen = (values, wanted) => values.map((value, place) => series.view[place] === wanted ? value : null).concat(end);
  const found = events(told, series), data = {at}, posts = hourly(series);
  for (const [brand, track] of Object.entries(series.tracks)) {
    const share = lately(track);
    Object.assign(data, {
      [`${brand} batch`]: chosen(share, "batch"), [`${brand} speed`]: chosen(share, "speed"),
      [`${brand} corrected`]: daily(at, daysOf[brand], "corrected"),
      [`${brand} low`]: daily(at, daysOf[brand], "low"), [`${brand} high`]: daily(at, daysOf[brand], "high"),
    });
  }
  charts.update({...data, "posts batch": chosen(posts, "batch"), "posts speed": chosen(posts, "speed")}, found);
  marks(found);
  say("time-covers", at.length ? `Event time, ${momentOf(at[0])} to ${momentOf(at.at(-1))}: a point for each published hour, then one for each minute of the stream; ` +
    `shares of the last ${ENOUGH} opinions or more, as counted; in blue each whole day, corrected, with its 90 % interval.` : "Nothing has been counted yet.");
}

/** What is new takes the place of what was known from there on. */
export function join(series, tail) {
  const keep = series.at.findIndex((at) => at >= tail.since), head = keep < 0 ? series.at.length : keep;
  const joined = (old, more) => old.slice(0, head).concat(more);
  for (const name of ["at", "view", "posts"]) series[name] = joined(series[name], tail[name]);
  for (const [brand, track] of Object.entries(tail.tracks)) {
    const known = series.tracks[brand];
    series.tracks[brand] = {opinions: joined(known.opinions, track.opinions), negative: joined(known.negative, track.negative)};
  }
  series.seam = tail.seam;
}
