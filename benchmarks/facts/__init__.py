"""Where facts matter: studies on the tiny world that set a judge with facts against one without, over seeds.

Start with `__main__`, the command line; `studies` says what each does, `stages` starts the programs. docs/facts.md has the tables.
"""
