"""The two programs on `transformers.Trainer`, reward model and supervised fine-tuning. Start with `role_trainer`, what both share.

Not here: their losses (`functional`), their rows and batches (`data_utils`), and the loading of the base (`assembly`).
"""
