// Numbers, money, days and times as people read them.

const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const NANOS = 1_000_000_000n;
/** Where nothing can be said. */
export const NOTHING = "–";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export const count = (number) => whole.format(number);
export const compact = (number) =>
  Math.abs(number) < 1000 ? decimals(number, number < 10 ? 1 : 0) : short.format(number);
/** "1 day", "2 days". */
export const plural = (number, one, many = one + "s") =>
  `${count(number)} ${number === 1 ? one : many}`;

function decimals(number, most, least = 0) {
  return number.toLocaleString("en-US", {
    maximumFractionDigits: most,
    minimumFractionDigits: least,
  });
}

export const share = (part, of) => (of > 0 ? part / of : null);
export function percent(ratio, digits = 1) {
  return ratio === null || ratio === undefined
    ? NOTHING
    : `${decimals(ratio * 100, digits, digits)} %`;
}

/** Billionths of a dollar, exact, from a decimal text. */
export function nanos(text) {
  const [, sign, units, fraction = ""] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text);
  const value = BigInt(units) * NANOS + BigInt(fraction.padEnd(9, "0").slice(0, 9));
  return sign ? -value : value;
}

/** A decimal text or billionths, rounded to cents for display. */
export function money(amount, signed = false) {
  const value = typeof amount === "bigint" ? amount : nanos(amount);
  const size = value < 0n ? -value : value;
  const cents = (size + NANOS / 200n) / (NANOS / 100n);
  const sign = cents === 0n ? "" : value < 0n ? "−" : signed ? "+" : "";
  return `${sign}$${(cents / 100n).toLocaleString("en-US")}.${String(cents % 100n).padStart(2, "0")}`;
}

/** Dollars as a float: for lengths in a chart, never for sums. */
export const dollars = (text) => Number(text);
export const axis_money = (number) => (number < 0 ? "−" : "") + "$" + compact(Math.abs(number));

export function price(usd_per_minute) {
  return usd_per_minute === null ? NOTHING : `$${decimals(Number(usd_per_minute), 4, 4)}/min`;
}

/** Whole minutes, as the program counts them. */
export const minutes = (seconds) => count(Math.floor(seconds / 60));

/** A length of time: "2:34 min", "41 s". */
export function duration(seconds) {
  if (seconds === null) return NOTHING;
  const all = Math.round(seconds);
  return all < 60
    ? `${all} s`
    : `${count(Math.floor(all / 60))}:${String(all % 60).padStart(2, "0")} min`;
}

/** How much `now` is above or below `before`; `null` if that says nothing. */
export function relative(now, before) {
  return before > 0 ? now / before - 1 : null;
}

/** "▲ 4.2 %": the arrow repeats what the words beside it say. */
export function change(ratio) {
  if (ratio === null || ratio === undefined) return NOTHING;
  if (Math.abs(ratio) < 0.0005) return "unchanged";
  const size = Math.abs(ratio);
  return `${ratio > 0 ? "▲" : "▼"} ${size >= 10 ? "×" + decimals(ratio + 1, 0) : percent(size)}`;
}

const date_of = (day) => new Date(day + "T00:00:00Z");
/** "12 Nov". */
export function day_short(day) {
  const date = date_of(day);
  return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
}
/** "Thu 12 Nov". */
export const day_long = (day) => `${weekday(day)} ${day_short(day)}`;
/** "12 Nov 2026". */
export const day_year = (day) => `${day_short(day)} ${day.slice(0, 4)}`;
export const weekday = (day) => WEEKDAYS[date_of(day).getUTCDay()];
/** "Nov 2026" of a month, "Thu 12 Nov" of a day. */
export function slice_name(day) {
  return day.length === 7
    ? `${MONTHS[Number(day.slice(5)) - 1]} ${day.slice(0, 4)}`
    : day_long(day);
}
export const WEEK = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/** Moments in one time zone; UTC if the browser does not know the zone. */
export class Zone {
  constructor(name) {
    const options = {
      year: "numeric",
      month: "2-digit",
      day: "2-digit",
      hour: "2-digit",
      minute: "2-digit",
      hourCycle: "h23",
    };
    try {
      this.format = new Intl.DateTimeFormat("en-US", { ...options, timeZone: name });
      this.name = name;
    } catch {
      this.format = new Intl.DateTimeFormat("en-US", { ...options, timeZone: "UTC" });
      this.name = "UTC";
    }
  }
  /** The day and the time of day of an instant in milliseconds. */
  parts(time) {
    const p = Object.fromEntries(
      this.format.formatToParts(time).map(({ type, value }) => [type, value]),
    );
    return { day: `${p.year}-${p.month}-${p.day}`, clock: `${p.hour}:${p.minute}` };
  }
  /** "Thu 12 Nov 10:00". */
  moment(time) {
    const { day, clock } = this.parts(time);
    return `${day_long(day)} ${clock}`;
  }
  /** "12 Nov 2026, 10:00". */
  stamp(text) {
    if (!text) return NOTHING;
    const { day, clock } = this.parts(Date.parse(text));
    return `${day_year(day)}, ${clock}`;
  }
  /** The instant at which a day begins. */
  midnight(day) {
    const wanted = date_of(day).getTime();
    let time = wanted;
    // The offset of the guess may be another one than that of the answer: once more.
    for (let i = 0; i < 2; i++) {
      const { day: d, clock } = this.parts(time);
      time += wanted - Date.parse(`${d}T${clock}:00Z`);
    }
    // Where the clock skips midnight, the day begins later.
    const { day: d, clock } = this.parts(time);
    return d === day ? time : time + wanted - Date.parse(`${d}T${clock}:00Z`);
  }
}

/** The days from one to another, both included. */
export function days_between(from, to) {
  const days = [];
  for (let time = date_of(from).getTime(); time <= date_of(to).getTime(); time += 86_400_000) {
    days.push(new Date(time).toISOString().slice(0, 10));
  }
  return days;
}
