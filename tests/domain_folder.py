"""A small valid domain folder; a test replaces the one file it is about."""

from __future__ import annotations

from pathlib import Path

ARTICLE = """---
title: Opening hours
questions:
  - When are you open?
  - Is the desk staffed on Sunday?
---
We are open from 9 to 5.
"""

DOMAIN = """version: "3.1"
slots:
  city: {type: text}
  size: {type: categorical, values: [small, large]}
forms:
  trip_form: {required_slots: [city, size]}
actions: [action_book]
responses:
  utter_greet: [{text: Hello}, {text: Hi}]
  utter_clarify: [{text: Which one}]
  utter_out_of_scope: [{text: Not that}]
  utter_handoff: [{text: A person comes}]
  utter_unknown_language: [{text: English only}]
  utter_action_failed: [{text: That failed}]
  utter_ask_city: [{text: Which city}]
  utter_ask_size: [{text: Which size, buttons: [{title: small}, {title: large}]}]
  utter_booked: [{text: "Booked {city} for {person}"}]
rejoinder:
  assistant: Dot
  persona: Short and kind.
  languages: [en]
  ai_notice: I am an AI.
  human_offer: A person is here.
  action_forms: {action_book: trip_form}
  triggers:
    utter_greet: {examples: [hello there]}
    utter_out_of_scope: {floor: 0.3}
    handoff: {examples: [a person please]}
    action_book: {examples: [book a trip]}
"""

ACTIONS = """from rasa_sdk import Action


class Book(Action):
    def name(self):
        return "action_book"

    def run(self, dispatcher, tracker, domain):
        dispatcher.utter_message(response="utter_booked", person=tracker.user_id)
        return []
"""

TESTS = """tests:
  - name: hours are told
    must_pass: true
    steps:
      - user: when do you open?
        act: answer:opening_hours
"""


def write_domain(folder: Path, **overrides: str) -> Path:
    """Write the folder: `article`, `domain`, `actions`, `tests`, `rewards`. An empty text leaves the file out."""
    files = {
        "article": ("articles/opening_hours.md", ARTICLE),
        "domain": ("domain.yml", DOMAIN),
        "actions": ("actions.py", ACTIONS),
        "tests": ("tests/basic.yml", TESTS),
        "rewards": ("rewards.yml", "version: 1\n"),
    }
    for key, (name, default) in files.items():
        text = overrides.get(key, default)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text)
    return folder
