import pytest

from headstart.suites import registry


def test_a_task_and_a_split_are_found_by_name():
    assert registry.get_task("metaworld/door-unlock").instruction.startswith("unlock")
    assert [t.name for t in registry.get_split("metaworld/reach")] == ["reach"]
    assert len(registry.get_split("metaworld/ml45-test")) == 5


@pytest.mark.parametrize("find", [registry.get_task, registry.get_split])
def test_a_wrong_name_gets_the_nearest(find):
    with pytest.raises(ValueError, match=r"unknown task.*door-unlok.*did you mean metaworld/door"):
        find("metaworld/door-unlok")


@pytest.mark.parametrize(
    ("find", "name"), [(registry.get_task, "reach"), (registry.get_split, "mt50")]
)
def test_a_name_without_its_suite_gets_the_whole_name(find, name):
    with pytest.raises(ValueError, match=f"'{name}'; did you mean metaworld/{name}\\?$"):
        find(name)
