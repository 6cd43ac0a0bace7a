// A classic script, before the first paint: the page must not flash in the colours that were not chosen.
try {
  const theme = JSON.parse(localStorage.getItem("realtime live theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Nothing is remembered here: as the system has it.
}
