// A line of what was, up to some minutes back, as SVG. Times are to scale; where nobody looked there is no line.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 36;
const HOLE_SECONDS = 5;
const LEAST_SECONDS = 20;

const node = (tag, attributes) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};

export class Chart {
  #samples = [];
  #seconds;
  #most;
  #fromZero;
  #line = node("path", { class: "line" });
  #area = node("path", { class: "area" });

  constructor({ seconds, most, fromZero = true }) {
    this.#seconds = seconds;
    this.#most = most;
    this.#fromZero = fromZero;
    // The number beside it says the same.
    this.element = node("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.element.append(this.#area, this.#line);
  }

  get peak() {
    return this.#samples.reduce((most, { value }) => Math.max(most, value), 0);
  }

  add(now, value) {
    this.#samples.push({ now, value });
    const gone = this.#samples.findIndex((sample) => now - sample.now <= this.#seconds);
    this.#samples.splice(0, Math.max(gone, this.#samples.length - this.#most));
  }

  clear() {
    this.#samples = [];
    this.draw();
  }

  draw() {
    const values = this.#samples.map(({ value }) => value);
    const low = this.#fromZero ? 0 : Math.min(...values);
    const high = Math.max(...values);
    const end = this.#samples.at(-1)?.now;
    // It fills its width early on, and grows into its full length.
    const seconds = Math.max(LEAST_SECONDS, end - this.#samples[0]?.now);
    const x = (now) => (WIDTH * (1 - (end - now) / seconds)).toFixed(1);
    const y = (value) => (HEIGHT - 1.5 - (high > low ? ((value - low) / (high - low)) * (HEIGHT - 3) : 0)).toFixed(1);
    let line = "";
    let area = "";
    let run = [];
    const close = () => {
      if (!run.length) return;
      const points = run.map(({ now, value }) => `${x(now)},${y(value)}`).join("L");
      line += `M${points}`;
      area += `M${x(run[0].now)},${HEIGHT}L${points}L${x(run.at(-1).now)},${HEIGHT}Z`;
      run = [];
    };
    for (const sample of this.#samples) {
      if (run.length && sample.now - run.at(-1).now > HOLE_SECONDS) close();
      run.push(sample);
    }
    close();
    this.#line.setAttribute("d", line);
    this.#area.setAttribute("d", this.#fromZero ? area : "");
  }
}
