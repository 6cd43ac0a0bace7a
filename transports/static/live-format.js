// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const MOST_DECIMALS = 8;

export const count = (value) => whole.format(value);
export const rate = (value) => (value >= 100 ? whole : tenth).format(value);

export function bytes(value) {
  if (value < 1024) return `${value} B`;
  return value < 1 << 20 ? `${tenth.format(value / 1024)} KiB` : `${tenth.format(value / (1 << 20))} MiB`;
}

/** A length of time in its two largest units. */
export function span(seconds) {
  if (seconds < 10) return `${tenth.format(seconds)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${count(Math.floor(hours / 24))} d ${hours % 24} h`;
}

export function clock(milliseconds, fraction = false) {
  const date = new Date(milliseconds);
  const two = (number) => String(number).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return fraction ? `${time}.${String(date.getMilliseconds()).padStart(3, "0")}` : time;
}

/** As many as the number has without an exponent: of 1.5e-7 eight. */
export function decimals(number) {
  const [digits, exponent = 0] = String(number).split("e");
  return Math.min(MOST_DECIMALS, Math.max(0, (digits.split(".")[1] ?? "").length - exponent));
}

export function fixed(number, places) {
  if (Number.isInteger(number) && !places) return whole.format(number);
  // It would be shown as nothing, and is something.
  if (number && Math.abs(number) < 10 ** -places / 2) return String(number);
  return number.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}

/** Words of the server's as words on a page: `slow_consumer`, `AUTH_FAILED`. */
export const words = (name) => name.replaceAll("_", " ").toLowerCase();

export const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
