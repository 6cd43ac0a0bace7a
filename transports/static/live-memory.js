// What the page remembers: its arrangement for good, the API key for as long as the tab lives. Both may be forbidden.

const name = (key) => `realtime live ${key}`;

export function recall(key, otherwise, storage = () => localStorage) {
  try {
    return JSON.parse(storage().getItem(name(key))) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(key, value, storage = () => localStorage) {
  try {
    if (value === null) storage().removeItem(name(key));
    else storage().setItem(name(key), JSON.stringify(value));
  } catch {
    // Then it holds until the page is left.
  }
}

export const forThisTab = () => sessionStorage;
