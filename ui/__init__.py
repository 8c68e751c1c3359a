"""Pages for people: the chat, the operator's and the studio. The only home of Gradio."""
