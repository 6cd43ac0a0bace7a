import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { connect } from "trio-realtime";
import { Room } from "./room.jsx";

export const client = connect(); // once, outside of all components

createRoot(document.getElementById("root")).render(
  <StrictMode>
    <Room client={client} topic="room:lobby" />
  </StrictMode>,
);
