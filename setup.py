"""Install the three packages; `requirements.txt` is the one list of what they need."""

from pathlib import Path

from setuptools import find_packages, setup

lines = (Path(__file__).parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
requirements = [line.split("#")[0].strip() for line in lines]

setup(
    name="llava-rlhf",
    version="0.1.0",
    description="Factually Augmented RLHF for large vision-language models (arXiv 2309.14525)",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["llava_rlhf*", "models*", "data_utils*"]),
    package_data={
        "llava_rlhf.tiny_world": ["*.jinja"],
        "llava_rlhf.fact_rewards": ["*.txt"],
        "llava_rlhf.exporting": ["*.jinja"],
        "llava_rlhf.reporting": ["*.jinja", "*.css", "*.js"],
        "llava_rlhf.pages": ["*.jinja", "*.css", "*.js"],
    },
    install_requires=[requirement for requirement in requirements if requirement],
    # Nouns and similar words of AMBER's descriptions, as published; their data is downloaded apart (docs/evaluation.md).
    extras_require={"amber": ["nltk>=3.9,<4", "spacy>=3.8,<4"]},
)
