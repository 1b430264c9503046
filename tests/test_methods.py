"""Method strings: what they expand to, and what they say when they are wrong."""

import pytest

from potstill.methods import describe, parse
from potstill.objectives import ICD, KD, OBJECTIVES, CrossEntropy
from potstill.schedules import Cosine
from potstill.terms import Spec, Term


@pytest.mark.parametrize(
    ("text", "expansion"),
    [
        ("student", "ce:1"),
        ("ce", "ce:1"),
        ("ce:0.5", "ce:0.5"),
        ("kd", "ce:0.1+kd:0.9"),
        ("kd:0.5", "ce:1+kd:0.5"),
        ("icd", "ce:1+icd:1"),
        ("icd+kd", "ce:1+icd:1+kd:1"),
        ("icd:1.0+kd:0.5", "ce:1+icd:1+kd:0.5"),
        ("ce:0.1+kd:0.9+icd:2", "ce:0.1+kd:0.9+icd:2"),
        ("kd+ce:0.1", "kd:1+ce:0.1"),
        ("fitnet", "ce:1+fitnet:100"),
        ("fitnet:1e-3", "ce:1+fitnet:0.001"),
        (" icd + kd : 0.5 ", "ce:1+icd:1+kd:0.5"),
        ("kd(temperature=2)", "ce:0.1+kd(temperature=2):0.9"),
        ("icd(alpha=0, scale=fixed):2", "ce:1+icd(alpha=0,scale='fixed'):2"),
        ("icd(scale='fixed')+kd", "ce:1+icd(scale='fixed'):1+kd:1"),
        ("icd()", "ce:1+icd:1"),
        ("icd~shuffled", "ce:1+icd:1"),
        ("ab", "ce:1+ab:1"),
        ("ft(rate=0.25)+kd", "ce:1+ft(rate=0.25):200+kd:1"),
        ("simkd", "ce:0+simkd:1"),
        ("simkd(factor=4)+kd", "ce:1+simkd(factor=4):1+kd:1"),
        ("jsd", "ce:0+jsd:1"),
        ("ce:0+kd", "ce:0+kd:1"),
        ("ce:0", "ce:0"),
        ("dkd", "ce:1+dkd(warm_up=0.08333):1"),
        ("dkd(beta=2,warm_up=0):3", "ce:1+dkd(beta=2,warm_up=0):3"),
        ("icd(warm_up=0.1)+ce:0.5", "icd(warm_up=0.1):1+ce:0.5"),
    ],
)
def test_expansion(text, expansion):
    method = parse(text)
    assert method.expansion == expansion
    if len(method.stages) == 1:
        assert describe(method.terms) == expansion.removeprefix("ce:0+")
    assert parse(expansion).expansion == expansion, "the expansion is itself a method string"


def test_terms_of_a_method():
    method = parse("icd(alpha=0,scale=fixed):0.5+kd~shuffled")
    assert [(t.kind, t.weight, t.label) for t in method.terms] == [
        (CrossEntropy, 1.0, "ce"),
        (ICD, 0.5, "icd"),
        (KD, 1.0, "kd"),
    ]
    assert dict(method.terms[1].objective.kwargs) == {"alpha": 0, "scale": "fixed"}
    assert method.control == "shuffled"
    assert method.needs_teacher
    assert parse("kd").control is None
    assert not parse("student").needs_teacher
    assert not parse("ce:2").needs_teacher


def test_every_objective_is_a_method_or_says_what_it_is_a_part_of():
    for name, kind in OBJECTIVES.items():
        if kind.part_of is None:
            assert any(term.label == name for stage in parse(name).stages for term in stage.terms)
        else:
            with pytest.raises(ValueError, match=f"{name!r} is no method by itself but a part of"):
                parse(f"kd+{name}")


def test_describe_terms_written_in_python():
    terms = (Term(Spec.of(KD, temperature=2), weight=0.9), Term(ICD, weight=Cosine(), name="home"))
    assert describe(terms) == "kd(temperature=2):0.9+home:Cosine(warmup=0.0, floor=0.0)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("icdd", r"method 'icdd': unknown objective 'icdd'; did you mean 'icd'\?"),
        ("icd+fitnets", r"unknown objective 'fitnets'; did you mean 'fitnet'\?"),
        ("studnt", r"did you mean 'student'\?"),
        ("zzzz", r"unknown objective 'zzzz'; known: ab, .* in all\)"),
        ("student+kd", "'student' stands alone; in a composition write ce"),
        ("student:2", "'student' stands alone"),
        ("icd(alpa=0)", r"icd has no option 'alpa'; did you mean 'alpha'\?"),
        ("icd(student_width=3)", "icd has no option 'student_width'"),
        ("fitnet(kernel=3)", "fitnet has no option 'kernel'; known: warm_up"),
        ("ce(kwargs=3)", "ce has no option 'kwargs'; known: warm_up"),
        ("ce(args=3)", "ce has no option 'args'; known: warm_up"),
        ("simkd(factor=x)", r"option 'factor' of simkd is int \(factor=2\), got 'x'"),
        ("simkd(factor=2.5)", r"option 'factor' of simkd is int"),
        ("ft(rate=x)", r"option 'rate' of ft is float \(rate=0.5\), got 'x'"),
        ("dkd(warm_up=True)", "option 'warm_up' of dkd is float"),
        ("icd(scale=3)", "option 'scale' of icd is str"),
        ("icd(warm_up=2)", "warm_up is a fraction of the run, between 0 and 1, got 2"),
        ("ft_paraphraser", "'ft_paraphraser' is no method by itself but a part of ft"),
        ("icd(alpha)", "option 'alpha' of icd has no value; write alpha=value"),
        ("icd(alpha=)", "option 'alpha' of icd has no value"),
        ("icd:much", "the weight 'much' is not a number"),
        ("icd:nan", "the weight 'nan' is not a number"),
        ("icd:inf", "the weight 'inf' is not a number"),
        ("", "method '': cannot read ''; write name, name:weight"),
        ("icd+", r"method 'icd\+': cannot read ''"),
        ("icd:", "cannot read 'icd:'"),
        ("icd(alpha=0", r"cannot read 'icd\(alpha=0'"),
        ("icd~shufled", r"unknown control 'shufled'; did you mean 'shuffled'\?"),
        ("icd~", "unknown control ''; known: shuffled"),
        ("student~shuffled", "no term of it has a teacher, so 'shuffled' would change nothing"),
    ],
)
def test_errors_teach(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)
