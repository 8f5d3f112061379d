"""Writes conversations.jsonl: templates, conversations, and the prompts that Hugging Face's transformers makes of them.

    pip install transformers==5.23.0 jinja2==3.1.6 && python3 make_conversations.py > conversations.jsonl

A line has `template`, the arguments, and `text`, or `error`: true where transformers refuses.
"""
import json

from transformers.utils.chat_template_utils import render_jinja_template

TEMPLATES = {
    "plain": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "trims": "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}[/]\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    "parts": "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
             "{% if p.type == 'text' %}{{ p.text }}{% else %}<image>{% endif %}{% endfor %}{% endif %};{% endfor %}{{ 'assistant: ' if add_generation_prompt }}",
    "thinks": "{% for m in messages %}{% set c = m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content %}"
              "<{{ m.role }}>{{ c }}</{{ m.role }}>{% endfor %}",
    "last": "{{ messages[-1].role }}",
    "tools": "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% else %}none{% endif %}{{ documents is none }}{% for m in messages %}"
             "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}",
    "first": "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}{{ messages[0].content }}",
}
U = lambda c: {"role": "user", "content": c}
A = lambda c, **more: {"role": "assistant", "content": c, **more}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}}}}]
CONVERSATIONS = [
    [U("Hi")],
    [U("Hi"), A("The answer is")],
    [U("Hi"), A("  spaced out \n")],
    [U("Hi"), A("")],
    [U("Hi"), A("   ")],
    [U("Hi"), A("<think>\nhm\n</think>\n\nso")],
    [A("first"), U("then")],
    [U("CONTINUE_FINAL_MESSAGE_TAG x"), A("y")],
    [U([{"type": "text", "text": "look"}, {"type": "image"}]), A([{"type": "text", "text": "I see"}, {"type": "image"}])],
    [U("x"), A([{"type": "image"}])],
    [U("x"), A(None, tool_calls=[{"type": "function", "function": {"name": "f", "arguments": {"z": "é", "a": 1}}}])],
    [U("日本語 👋"), A("は\u3000")],
]

for template in TEMPLATES.values():
    for messages in CONVERSATIONS:
        for generation, final, tools in ((True, False, None), (False, False, TOOLS), (False, True, None)):
            line = {"template": template, "messages": messages, "tools": tools, "add_generation_prompt": generation, "continue_final_message": final}
            try:
                texts, _ = render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=generation,
                                                 continue_final_message=final)
                line["text"] = texts[0]
            except Exception:
                line["error"] = True
            print(json.dumps(line, ensure_ascii=False))
