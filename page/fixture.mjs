// Writes a made-up report, as the program embeds it: node fixture.mjs KIND > report.json
//
// The sums agree with each other, as those of the program do. Kinds: see `KINDS`.

export const KINDS = [
  "ordinary",
  "disrupted",
  "empty",
  "missing",
  "months",
  "placed",
  "hostile",
  "year",
  "first",
  "few",
  "halves",
];

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const MEANINGS = {
  missing: "not fetched yet",
  open: "not settled when it was fetched",
  failed: "the last attempt failed",
  damaged: "its ledger entry cannot be used",
  interrupted: "a run crashed while it was published",
  pruned: "removed for its age",
};
const STATES = ["closed", "open", "failed", "damaged", "interrupted", "missing", "pruned"];
const iso = (time) => new Date(time).toISOString().replace(".000Z", "Z");
const day = (time) => iso(time).slice(0, 10);

/** Nanodollars as the program writes them: without trailing zeros. */
function usd(nanos) {
  const sign = nanos < 0n ? "-" : "";
  const digits = (nanos < 0n ? -nanos : nanos).toString().padStart(10, "0");
  const fraction = digits.slice(-9).replace(/0+$/, "");
  return sign + digits.slice(0, -9) + (fraction && "." + fraction);
}

/** Numbers from 0 to 1, always the same ones (mulberry32). */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const nothing = () => ({
  calls: 0,
  answered: 0,
  failed: 0,
  busy: 0,
  duration_seconds: 0,
  charge: 0n,
});
function add(sum, other) {
  for (const key of Object.keys(sum)) sum[key] += other[key];
  return sum;
}
function shown({ charge, ...rest }, ...only) {
  const all = { ...rest, charge_usd: usd(charge) };
  return only.length ? Object.fromEntries(only.map((key) => [key, all[key]])) : all;
}

function ranking(names, total, before, draw) {
  const weights = names.map(() => 0.05 + draw() ** 3);
  const of = (sum, share) => ({
    calls: Math.floor(sum.calls * share),
    answered: Math.floor(sum.answered * share),
    duration_seconds: Math.floor(sum.duration_seconds * share),
    charge: (sum.charge * BigInt(Math.floor(share * 1e6))) / 1_000_000n,
  });
  const all = weights.reduce((a, b) => a + b, 0) || 1;
  const entry = (sums) => ({
    ...shown(sums),
    usd_per_minute: sums.duration_seconds
      ? Number(sums.charge) / 1e9 / (sums.duration_seconds / 60)
      : null,
  });
  const sums = names.map((name, i) => {
    const moved = weights[i] * (0.75 + draw() * 0.5);
    return {
      name,
      now: of(total, weights[i] / all),
      before: before && draw() > 0.06 ? of(before, moved / all) : null,
    };
  });
  sums.sort((a, b) => (a.now.charge < b.now.charge ? 1 : a.now.charge > b.now.charge ? -1 : 0));
  const other = { calls: 0, answered: 0, duration_seconds: 0, charge: 0n };
  for (const { now } of sums.slice(50)) add(other, now);
  return {
    distinct: names.length,
    is_exact: true,
    rows: sums
      .slice(0, 50)
      .map(({ name, now, before }) => ({ name, ...entry(now), before: before && entry(before) })),
    other: shown(other),
  };
}

export function fixture(kind) {
  const draw = random(7 + KINDS.indexOf(kind));
  const count = kind === "year" ? 365 : 30;
  const end = Date.parse("2026-11-26");
  const begin = end - count * DAY;
  const directions = kind === "placed" ? ["placed"] : ["placed", "received"];
  const fetched = !["empty", "missing"].includes(kind);
  const has_before = fetched && !["first", "year"].includes(kind);
  const months = kind === "months";
  const size = kind === "few" ? 6 : 1300;
  const bad = kind === "disrupted" || kind === "hostile";
  const evil = '</script><img src=x onerror="window.hacked=1"><b>bold</b>';
  const by_hour = new Map();

  // What happens: an hour in which half of the placed calls fail, one in which few calls are
  // answered, two in which too many are busy.
  const trouble = bad
    ? {
        [Date.parse("2026-11-12T10:00:00Z") + "placed"]: { failed: 0.51 },
        [Date.parse("2026-11-19T15:00:00Z") + "received"]: { answered: 0.31 },
        [Date.parse("2026-11-23T08:00:00Z") + "placed"]: { busy: 0.34 },
        [Date.parse("2026-11-23T09:00:00Z") + "placed"]: { busy: 0.29 },
      }
    : {};
  const states = new Map();
  const state = (date, direction) => {
    if (!fetched) return "missing";
    return states.get(date + direction) ?? "closed";
  };
  if (bad) {
    states.set("2026-11-03placed", "missing");
    states.set("2026-11-15received", "failed");
    states.set("2026-11-25placed", "open").set("2026-11-25received", "open");
  }
  if (kind === "hostile") STATES.forEach((s, i) => states.set(day(begin + i * DAY) + "placed", s));
  const has_rows = (s) => s === "closed" || s === "open" || s === "failed";

  function hour(time, direction) {
    const weekday = (new Date(time).getUTCDay() + 6) % 7;
    const clock = new Date(time).getUTCHours();
    const busy_hours =
      Math.exp(-(((clock - 10.5) / 3) ** 2)) + 0.8 * Math.exp(-(((clock - 15) / 2.6) ** 2));
    const mean =
      size * (0.02 + busy_hours) * (weekday > 4 ? 0.35 : 1) * (direction === "placed" ? 1.6 : 1);
    const calls = Math.round(mean * (0.93 + draw() * 0.14));
    const odd = trouble[time + direction] ?? {};
    const noise = () => ((draw() - 0.5) * 0.6) / Math.sqrt(calls + 1);
    const failed = Math.round(calls * Math.max(0, odd.failed ?? 0.07 + noise()));
    const busy = Math.round(calls * Math.max(0, odd.busy ?? 0.11 + noise()));
    const answered = Math.min(
      calls - failed - busy,
      Math.round(calls * (odd.answered ?? (odd.failed ? 0.3 : 0.62 + noise()))),
    );
    const duration_seconds = answered * Math.round(140 + draw() * 30);
    const price = direction === "placed" ? 21_350_000n : 4_000_000n;
    return {
      calls,
      answered,
      failed,
      busy,
      duration_seconds,
      charge: (BigInt(duration_seconds) * price) / 60n,
    };
  }
  function whole_day(time, direction) {
    const sum = nothing();
    for (let h = 0; h < 24; h++) {
      const sums = hour(time + h * HOUR, direction);
      by_hour.set(time + h * HOUR + direction, sums);
      add(sum, sums);
    }
    return sum;
  }

  const by_day = new Map();
  for (let time = begin - count * DAY - 7 * DAY; fetched && time < end; time += DAY) {
    for (const direction of directions) {
      if (time >= begin && !has_rows(state(day(time), direction))) continue;
      if (time < begin && !has_before) continue;
      by_day.set(time + direction, whole_day(time, direction));
    }
  }
  const sum_of = (from, to, direction) => {
    const sum = nothing();
    for (let time = from; time < to; time += DAY) {
      for (const d of directions) {
        if (!direction || d === direction) add(sum, by_day.get(time + d) ?? nothing());
      }
    }
    return sum;
  };

  const days = [],
    hours = [],
    peaks = [],
    list = [],
    rhythm = new Map();
  for (let time = begin; time < end; time += DAY) {
    let most = 0;
    for (const direction of directions) {
      const sums = by_day.get(time + direction) ?? nothing();
      const week_before = by_day.get(time - 7 * DAY + direction);
      const peak = Math.round(sums.calls / 180);
      most += peak;
      days.push({
        day: day(time),
        direction,
        ...shown(sums),
        week_before: week_before ? shown(week_before) : null,
        peak,
        state: state(day(time), direction),
      });
      for (let h = 0; h < 24; h++) {
        const at = time + h * HOUR;
        const in_hour = by_hour.get(at + direction);
        if (!in_hour) continue;
        if (in_hour.calls) {
          hours.push({
            begin: iso(at),
            direction,
            ...shown(in_hour, "calls", "answered", "failed", "busy", "duration_seconds"),
          });
        }
        const key = ((new Date(at).getUTCDay() + 6) % 7) * 24 + h;
        const cell = rhythm.get(key) ?? { calls: 0, answered: 0, hours: 0 };
        cell.calls += in_hour.calls;
        cell.answered += in_hour.answered;
        if (direction === "placed") cell.hours++;
        rhythm.set(key, cell);
      }
      if (!months && kind !== "empty") {
        const s = state(day(time), direction);
        const known = has_rows(s);
        list.push({
          day: day(time),
          direction,
          state: s,
          rows: sums.calls,
          provider_count: known ? sums.calls : null,
          reconcile: s === "closed" ? "match" : null,
          rejected: kind === "hostile" && direction === "received" ? 1 : 0,
          fetched_at: known ? iso(time + DAY + 3 * HOUR) : null,
          changes:
            bad && day(time) === "2026-11-09" && direction === "placed"
              ? [
                  {
                    run: "0198f2",
                    at: "2026-11-11T04:02:11Z",
                    rows_before: sums.calls - 14,
                    rows_after: sums.calls,
                    charge_before_usd: usd(sums.charge - 3_120_000_000n),
                    charge_after_usd: usd(sums.charge),
                  },
                ]
              : [],
        });
      }
    }
    if (fetched)
      peaks.push({
        day: day(time),
        calls: Math.round(most * 0.94),
        at: iso(time + 10 * HOUR + 31 * 60_000 + 7000),
      });
  }
  if (months) {
    for (const month of ["2026-10", "2026-11"]) {
      for (const direction of directions) {
        const rows = days
          .filter((d) => d.day.startsWith(month) && d.direction === direction)
          .reduce((a, d) => a + d.calls, 0);
        list.push({
          month,
          direction,
          state: month === "2026-11" ? "open" : "closed",
          rows,
          provider_count: rows,
          reconcile: "match",
          rejected: 0,
          fetched_at: "2026-11-26T04:00:00Z",
          changes: [],
        });
      }
    }
    for (const d of days) if (d.day >= "2026-11") d.state = "open";
  }

  for (const slice of list) slice.changed = slice.changes.length;
  // One direction is fetched, and the other never was: no day counts for the rhythm.
  if (kind === "halves")
    for (const cell of rhythm.values()) Object.assign(cell, { calls: 0, answered: 0, hours: 0 });

  const totals = [...directions, null].map((direction) => ({
    direction,
    ...shown(sum_of(begin, end, direction)),
    forward_fee_usd: "0",
    before: has_before
      ? { ...shown(sum_of(begin - count * DAY, begin, direction)), forward_fee_usd: "0" }
      : null,
  }));
  const total = sum_of(begin, end);
  const earlier = has_before ? sum_of(begin - count * DAY, begin) : null;
  const hostile =
    kind === "hostile"
      ? [evil, "a".repeat(200), "مرحبا \u202e evil", "${alert(1)}", "<!--<script>"]
      : [];
  const own = Array.from(
    { length: 64 },
    (_, i) => `4420${"•".repeat(6)}${String(i).padStart(2, "0")}`,
  );
  const destinations = fetched
    ? ranking(
        [
          "Germany, mobile",
          "United Kingdom, landline",
          "United States",
          "France, mobile",
          "Netherlands",
          null,
          "Spain, mobile",
          "Poland, landline",
          ...hostile,
        ],
        total,
        earlier,
        draw,
      )
    : {
        distinct: 0,
        is_exact: true,
        rows: [],
        other: shown({ calls: 0, answered: 0, duration_seconds: 0, charge: 0n }),
      };
  const trunks = fetched
    ? ranking(
        ["office-berlin", "office-london", "dialler", "support", null, ...hostile],
        total,
        earlier,
        draw,
      )
    : structuredClone(destinations);
  const own_numbers = fetched
    ? { ...ranking([...own, ...hostile], total, earlier, draw), is_exact: kind !== "year" }
    : structuredClone(destinations);

  const money = (nanos) => {
    const [whole, fraction = ""] = usd(nanos < 0n ? -nanos : nanos).split(".");
    return (
      whole.replace(/\B(?=(\d{3})+$)/g, ",") + "." + fraction.padEnd(2, "0").slice(0, 2) + " USD"
    );
  };
  const nanos = (text) => {
    const [whole, fraction = ""] = text.split(".");
    return BigInt(whole + fraction.padEnd(9, "0"));
  };
  const changes = [
    ["destination", destinations],
    ["trunk", trunks],
    ["own_number", own_numbers],
  ]
    .flatMap(([of, { rows }]) => rows.filter((row) => row.before).map((row) => ({ of, row })))
    .map(({ of, row }) => {
      const now = nanos(row.charge_usd),
        before = nanos(row.before.charge_usd);
      const difference = now - before;
      const price = (difference * BigInt(Math.floor(draw() * 1400) - 400)) / 1000n;
      return {
        of,
        name: row.name,
        charge_usd: usd(now),
        charge_before_usd: usd(before),
        difference_usd: usd(difference),
        volume_usd: usd(difference - price),
        price_usd: usd(price),
        text:
          `${row.name ?? "(none)"}: ${difference < 0n ? "−" : "+"}${money(difference)}, ` +
          `from ${money(before)} to ${money(now)}.`,
      };
    })
    .sort((a, b) => Math.abs(Number(b.difference_usd)) - Math.abs(Number(a.difference_usd)))
    .slice(0, 20);

  const findings = list
    .filter((s) => s.state !== "closed")
    .map((s) => ({
      day: s.day ?? `${s.month}-01`,
      direction: s.direction,
      kind: s.state,
      text: `${s.day ?? s.month} ${s.direction}: ${MEANINGS[s.state]}.`,
    }));
  for (const s of list) {
    if (s.changes.length)
      findings.push({
        day: s.day,
        direction: s.direction,
        kind: "changed",
        text: `${s.day} ${s.direction}: 14 calls came late.`,
      });
    if (s.rejected && s.day === "2026-11-20")
      findings.push({
        day: s.day,
        direction: s.direction,
        kind: "rejects",
        text: `${s.day} ${s.direction}: 1 record was rejected.`,
      });
  }
  return {
    format: 1,
    made_at: "2026-11-26T20:31:00Z",
    version: "0.1.0",
    lake: kind === "hostile" ? `./${evil}` : "./demo-lake",
    account: kind === "hostile" ? evil : fetched ? "cdrlake demo" : null,
    timezone: kind === "hostile" ? "America/St_Johns" : "UTC",
    slice: months ? "month" : "day",
    from: day(begin),
    to: day(end - DAY),
    before: has_before ? { from: day(begin - count * DAY), to: day(begin - DAY) } : null,
    directions,
    numbers: "hidden",
    totals,
    days: kind === "empty" ? [] : days,
    peaks,
    hours,
    rhythm: [...rhythm]
      .sort((a, b) => a[0] - b[0])
      .map(([key, cell]) => ({ weekday: Math.floor(key / 24) + 1, hour: key % 24, ...cell })),
    disruptions: {
      hours_compared: fetched ? (kind === "few" ? 0 : count * 24 * directions.length) : 0,
      list: bad
        ? [
            {
              begin: "2026-11-12T10:00:00Z",
              hours: 1,
              direction: "placed",
              kind: "failed",
              calls: 812,
              value: 0.51,
              usual: 0.07,
              spread: 0.004,
              compared: 4,
              basis: "weeks",
              text:
                "Thu 12 Nov 10:00–11:00, placed: " +
                "51.0 % of 812 calls failed; usually 7.0 % at this hour.",
            },
            {
              begin: "2026-11-16T02:00:00Z",
              hours: 2,
              direction: "received",
              kind: "silence",
              calls: 0,
              value: 0,
              usual: 31,
              spread: 2,
              compared: 4,
              basis: "weeks",
              text:
                `Mon 16 Nov 02:00–04:00, received: no calls${kind === "hostile" ? evil : ""}; ` +
                "usually 31 at this hour.",
            },
            {
              begin: "2026-11-19T15:00:00Z",
              hours: 1,
              direction: "received",
              kind: "asr",
              calls: 1204,
              value: 0.31,
              usual: 0.62,
              spread: 0.01,
              compared: 4,
              basis: "weeks",
              text:
                "Thu 19 Nov 15:00–16:00, received: " +
                "31.0 % of 1,204 calls were answered; usually 62.0 % at this hour.",
            },
            {
              begin: "2026-11-23T08:00:00Z",
              hours: 2,
              direction: "placed",
              kind: "busy",
              calls: 3311,
              value: 0.315,
              usual: 0.11,
              spread: 0.01,
              compared: 4,
              basis: "weeks",
              text:
                "Mon 23 Nov 08:00–10:00, placed: " +
                "31.5 % of 3,311 calls were busy; usually 11.0 % at this hour.",
            },
            {
              begin: "2026-11-23T14:00:00Z",
              hours: 1,
              direction: "received",
              kind: "acd",
              calls: 900,
              value: 41,
              usual: 150,
              spread: 4,
              compared: 4,
              basis: "days",
              text:
                "Mon 23 Nov 14:00–15:00, received: " +
                "answered calls took 41 s on average; usually 150 s at this hour.",
            },
          ]
        : [],
    },
    destinations,
    trunks,
    own_numbers,
    changes,
    prices: bad
      ? [
          {
            destination: kind === "hostile" ? evil : "Germany, mobile",
            day: "2026-11-10",
            usd_per_minute_before: "0.0945",
            usd_per_minute: "0.104",
            text:
              `${kind === "hostile" ? evil : "Germany, mobile"}: 0.0945 USD a minute until 9 Nov, ` +
              "0.104 since 10 Nov (+10.1 %).",
          },
        ]
      : [],
    trust: {
      slices: Object.fromEntries(
        STATES.map((s) => [s, list.filter((slice) => slice.state === s).length]),
      ),
      matching: list.filter((s) => s.reconcile === "match").length,
      rejected: list.reduce((a, s) => a + s.rejected, 0),
      findings,
      list,
    },
    pass: { rows: total.calls, seconds: 0.19, files: list.length },
  };
}

/** A page with a report in it, escaped as the program does it. */
export function fill(template, report) {
  const escapes = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
  };
  const json = JSON.stringify(report).replace(/[<>&\u2028\u2029]/g, (c) => escapes[c]);
  return template.replace("/*data*/", () => json);
}

if (process.argv[1] === import.meta.filename) {
  process.stdout.write(JSON.stringify(fixture(process.argv[2] ?? "ordinary"), null, 1) + "\n");
}
