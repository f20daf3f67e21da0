//! Evaluates admission policies as the API server would.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube_cel::KubeCelExt;
use kube_cel::cel::{self, Context, Program};
use serde_json::Value;

/// What a policy sees.
#[derive(Default)]
pub struct Seen {
    variables: Vec<(&'static str, Value)>,
    /// What the authorizer answers to whatever is asked. By default nobody has a right of ours.
    pub permitted: bool,
}

impl Seen {
    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.variables.push((name, value));
        self
    }

    /// The expression with the authorizer's answers in it: kube-cel knows no authorizer.
    fn authorized(&self, expression: &str) -> String {
        const END: &str = ".allowed()";
        let mut expression = expression.to_owned();
        while let Some(start) = expression.find("authorizer") {
            let end = start + expression[start..].find(END).unwrap() + END.len();
            expression.replace_range(start..end, &self.permitted.to_string());
        }
        expression
    }

    pub fn says(&self, expression: &str) -> bool {
        let mut context = Context::default();
        context.register_all();
        for (name, value) in &self.variables {
            let value = cel::to_value(value).unwrap();
            context.add_variable(*name, value).unwrap();
        }
        let program = Program::compile(expression).unwrap();
        match program.execute(&context) {
            Ok(cel::Value::Bool(says)) => says,
            other => panic!("{other:?}: {expression}"),
        }
    }
}

/// Evaluates a policy as the API server would: whether the object is let through.
///
/// Variables are put in where they are used, which comes to the same.
pub fn admits(policy: &ValidatingAdmissionPolicy, seen: &Seen) -> bool {
    let spec = policy.spec.as_ref().unwrap();
    let mut variables: Vec<(String, String)> = Vec::new();
    let whole = |expression: &str, variables: &[(String, String)]| {
        variables
            .iter()
            .fold(expression.to_owned(), |text, (name, value)| {
                text.replace(&format!("variables.{name}"), &format!("({value})"))
            })
    };
    for variable in spec.variables.iter().flatten() {
        let value = whole(&variable.expression, &variables);
        assert!(
            variables
                .iter()
                .all(|(name, _)| !variable.name.starts_with(name)),
            "the test would take {} for another",
            variable.name
        );
        variables.push((variable.name.clone(), value));
    }
    let pass = |expression: &str| seen.says(&whole(&seen.authorized(expression), &variables));
    let mut conditions = spec.match_conditions.iter().flatten();
    if !conditions.all(|condition| pass(&condition.expression)) {
        return true;
    }
    let mut validations = spec.validations.iter().flatten();
    validations.all(|validation| pass(&validation.expression))
}
