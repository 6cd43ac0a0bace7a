import { useTopic } from "./use-topic.js";

export function Room({ client, topic, keep = 20 }) {
  const { messages, gap, error } = useTopic(client, topic, { keep });
  if (error) return <p role="alert">{error.message}</p>;
  return (
    <>
      {gap && <p>Some messages are missing ({gap.reason}).</p>}
      <ul>
        {messages.map(({ id, data }) => (
          <li key={id}>{data.text}</li>
        ))}
      </ul>
    </>
  );
}
